"""A run folder holds what was written whole, and says what is wrong with what is not."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork._files import as_json
from graftwork.errors import ResourceError, RunError
from graftwork.reports import read_run
from graftwork.runs import RunFolder, write_bytes, write_json
from graftwork.runs._manifest import FORMAT_VERSION, Manifest, _digest
from graftwork.session import Session, open_classifier, options_of
from tests.runs.test_records import member

TENSORS = {"a": torch.arange(4.0)}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run")


def refuse(number: int) -> Any:
    def fail(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"kept": 1})
    monkeypatch.setattr(os, "fsync", refuse(number))
    with pytest.raises(ResourceError, match=r"can't write .*result\.json: .*resume"):
        write_bytes(path, b"half of it")
    assert json.loads(path.read_text()) == {"kept": 1}
    assert names(tmp_path) == ["result.json"]


def test_a_full_disk_keeps_the_last_checkpoint_and_tells_to_resume(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.save_checkpoint("search", 3, {"n": 3}, TENSORS)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse(errno.ENOSPC))
        with pytest.raises(ResourceError, match=r"free some space .*resume"):
            run.save_checkpoint("search", 4, {"n": 4}, TENSORS)
    assert names(run.path / "checkpoints") == ["search-00000003"]
    found = run.load_checkpoint("search")
    assert found is not None
    assert found[0] == {"n": 3}


def test_two_checkpoints_of_each_stage_are_kept_and_the_newest_is_read(run: RunFolder) -> None:
    for step in (5, 99999999, 100000000):
        run.save_checkpoint("search", step, {"n": step}, TENSORS)
    run.save_checkpoint("control", 1, {"n": 1}, TENSORS)
    run.save_checkpoint("search", 100000000, {"n": "again"}, TENSORS)
    assert names(run.path / "checkpoints") == ["control-00000001", "search-100000000", "search-99999999"]
    found = run.load_checkpoint("search")
    assert found is not None
    assert found[0] == {"n": "again"}
    assert torch.equal(found[1]["a"], TENSORS["a"])
    assert run.load_checkpoint("other") is None


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped": flipped,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\nx"),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: path.rename(path.with_name("elsewhere")).parent and path.symlink_to("elsewhere"),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.skipif(os.name == "nt", reason="no pipes in folders")
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "records.jsonl", "manifest.json"])
def test_any_damage_of_the_newest_checkpoint_falls_back_and_of_both_is_an_error(
    run: RunFolder, name: str, damage: str
) -> None:
    for step in (1, 2):
        run.append_records([member(f"m{step}")])
        run.save_checkpoint("search", step, {"n": step}, TENSORS)
    newest = run.path / "checkpoints" / "search-00000002" / name
    DAMAGE[damage](newest)
    found = run.load_checkpoint("search")
    assert found is not None
    assert found[0] == {"n": 1}
    assert "search-00000002" in run.passed_over[0]
    run.restore_records()
    assert run.records() == [member("m1")]
    DAMAGE[damage](run.path / "checkpoints" / "search-00000001" / name)
    with pytest.raises(RunError, match=r"every checkpoint.*search-00000002.*search-00000001.*--as-new"):
        run.load_checkpoint("search")


def test_copies_and_links_beside_checkpoints_are_passed_over(run: RunFolder) -> None:
    kept = run.save_checkpoint("search", 1, {"n": 1}, TENSORS)
    shutil.copytree(kept, kept.with_name(f"{kept.name} (copy)"))
    kept.with_name("search-00000009").symlink_to(kept.name)
    found = run.load_checkpoint("search")
    assert found is not None
    assert found[0] == {"n": 1}


@pytest.mark.parametrize("lost", [True, False])
def test_records_become_those_of_the_checkpoint_whatever_happened_to_them(run: RunFolder, lost: bool) -> None:
    assert run.records() == []
    run.append_records([member("m1"), member("m2")])
    run.save_checkpoint("search", 1, {}, TENSORS)
    run.append_records([member("m3")])
    with run.records_path.open("a") as file:
        file.write('{"n": ')
    with pytest.raises(RunError, match=r"records\.jsonl is damaged"):
        run.records()
    if lost:
        run.records_path.unlink()
    run.load_checkpoint("search")
    run.restore_records()
    run.append_records([member("m4")])
    assert [row.id for row in run.records()] == ["m1", "m2", "m4"]


def test_a_damaged_record_is_an_error_that_names_its_line(run: RunFolder) -> None:
    run.append_records([member("m1"), member("m2")])
    lines = run.records_path.read_bytes().split(b"\n")
    run.records_path.write_bytes(b"\n".join([lines[0], lines[1].replace(b"{", b"["), b""]))
    with pytest.raises(RunError, match=r"records\.jsonl is damaged"):
        run.records()
    (run.path / "manifest.json").unlink()  # then only what is no record is found
    with pytest.raises(RunError, match=r"records\.jsonl, line 2.*damaged"):
        RunFolder(run.path).records()


def test_a_reader_is_not_misled_by_files_that_are_replaced_while_it_looks(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Manifest and file are read one after the other; in between a search may have replaced both."""
    run.append_records([member("m1")])
    real = Manifest.load

    def load(folder: Path) -> Manifest | None:
        found = real(folder)
        if len(loaded) < 3:
            loaded.append(len(loaded))
            run.append_records([member(f"n{len(loaded)}")])
        return found

    loaded: list[int] = []
    monkeypatch.setattr(Manifest, "load", load)
    assert len(RunFolder(run.path).records()) == 4


def test_a_run_that_another_process_has_just_begun_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "run", os.rename
    path.mkdir()
    (path / "empty").mkdir()

    def rename(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", real)
        RunFolder.create(path, {"config.toml": "seed = 1\n"}).release()
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(RunError, match="is there already"):
        RunFolder.create(path, {"config.toml": "seed = 2\n"})
    assert (path / "config.toml").read_text() == "seed = 1\n"
    assert names(tmp_path) == ["run"]


@pytest.mark.parametrize("name", ["predictions/test.safetensors", "members/m0.json", "manifest.json"])
def test_a_flipped_bit_in_a_file_of_the_run_is_an_error_that_names_it(run: RunFolder, name: str) -> None:
    run.save_tensors("predictions/test.safetensors", TENSORS)
    run.write_json("members/m0.json", {"a": "text"})
    assert torch.equal(RunFolder(run.path).load_tensors("predictions/test.safetensors")["a"], TENSORS["a"])
    flipped(run.path / name)
    again = RunFolder(run.path)
    with pytest.raises(RunError, match=f"{name}.*(damaged|no JSON)"):
        again.read_json("members/m0.json") if name.endswith("json") else again.load_tensors(name)


@pytest.mark.parametrize("moment", range(1, 5))
def test_a_file_that_was_being_replaced_at_a_kill_is_the_old_or_the_new_one(
    run: RunFolder, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write_json("members/m0.json", {"n": 1})
    calls, real = 0, os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            raise KeyboardInterrupt
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(KeyboardInterrupt):
            run.write_json("members/m0.json", {"n": 2})
    assert RunFolder(run.path).read_json("members/m0.json")["n"] in (1, 2)


def test_a_run_appears_at_once_with_all_that_it_begins_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, calls, real = tmp_path / "run", 0, os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        assert not path.exists() or names(path)
        if calls == moment:
            raise KeyboardInterrupt
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for moment in range(1, 100):  # noqa: B007 - `fsync` reads it
        calls = 0
        try:
            made = RunFolder.create(path, {"config.toml": "seed = 1\n"}, origin={"config": {"seed": 1}})
        except KeyboardInterrupt:
            assert not path.exists() or (path / "config.toml").read_text() == "seed = 1\n"
            if path.exists():
                RunFolder.open(path).check_origin(config={"seed": 1})
                shutil.rmtree(path)
        else:
            break
    assert moment > 5
    assert names(tmp_path) == ["run"]
    made.release()


def test_what_a_run_was_begun_with_is_compared_field_by_field(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", origin={"config": {"seed": 3, "recipe": {"rate": 1.0}}})
    run.remember(data="abc")
    run.check_origin(config={"seed": 3, "recipe": {"rate": 1.0}}, data="abc", unknown=1)
    with pytest.raises(
        RunError, match=r"config\.recipe\.rate: was 1\.0, is 2\.0; .*seed: was 3, is 4; data: .*--as-new"
    ):
        run.check_origin(config={"seed": 4, "recipe": {"rate": 2.0}}, data="abd")
    (run.path / "manifest.json").unlink()
    with pytest.raises(RunError, match=r"manifest\.json is missing"):
        run.check_origin(data="abc")


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "", ".hidden", "a\\b", 'x"><img>', "ü", "x" * 200]
)
def test_a_name_that_is_no_plain_name_is_refused(run: RunFolder, name: str) -> None:
    for use in (run.read_json, run.load_tensors, run.has, lambda name: run.write_json(name, {})):
        with pytest.raises(RunError, match="expected an id"):
            use(name)


def test_links_below_a_run_are_neither_read_nor_written(run: RunFolder, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "m0.json").write_text("{}")
    shutil.rmtree(run.path / "members")
    (run.path / "members").symlink_to(victim)
    (run.path / "records.jsonl").symlink_to(victim / "m0.json")
    for use in (
        lambda: run.write_json("members/m1.json", {}),
        lambda: run.read_json("members/m0.json"),
        lambda: run.append_records([member("m1")]),
        run.clear_records,
        run.records,
    ):
        with pytest.raises(RunError, match="link"):
            use()
    assert names(victim) == ["m0.json"]
    assert (victim / "m0.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "missing.*--resume"), (b'{"a": ', "no JSON"), (b"\xff\xfe", "no JSON"), (b"[1]", "expected a JSON object")],
)
def test_damaged_json_is_an_error_that_names_the_file(run: RunFolder, content: bytes | None, words: str) -> None:
    if content is not None:
        (run.path / "result.json").write_bytes(content)
    with pytest.raises(RunError, match=f"result.json.*{words}"):
        run.read_json("result.json")


def test_damaged_or_missing_tensors_are_an_error_that_names_the_file(run: RunFolder) -> None:
    with pytest.raises(RunError, match=r"x\.safetensors"):
        run.load_tensors("x.safetensors")
    (run.path / "x.safetensors").write_bytes(b"cut")
    with pytest.raises(RunError, match=r"x\.safetensors.*damaged"):
        run.load_tensors("x.safetensors")


def test_a_folder_that_holds_something_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(RunError, match="--out"):
            RunFolder.create(path)
    with pytest.raises(RunError, match=r"config\.toml"):
        RunFolder.open(tmp_path)


def test_json_in_files_is_indented_with_lists_and_short_objects_on_one_line() -> None:
    data = {
        "a": [1, 2.5, None, "x,\ny"],
        "odd": ["x, [y]\n{"],
        "b": {"c": 1, "d": [{"e": "f"}, []]},
        "long": {"n" * 60: 1, "m" * 60: 2},
    }
    text = as_json(data)
    assert json.loads(text) == data
    assert ' "a": [1, 2.5, null, "x,\\ny"],\n' in text
    assert '{"e": "f"}' in text
    assert max(map(len, text.splitlines())) < 100


@pytest.mark.parametrize(("version", "age"), [(FORMAT_VERSION - 1, "an older"), (FORMAT_VERSION + 1, "a newer")])
@pytest.mark.parametrize("sealed", [True, False], ids=["by the same rule", "by another rule"])
def test_a_folder_of_another_format_is_refused_before_anything_is_read(
    run: RunFolder, version: int, age: str, sealed: bool
) -> None:
    write_json(run.path / "result.json", {"of": "another format"})
    (run.path / "config.toml").write_text("a_key_of_another_version = 1\n")
    run.release()
    path = run.path / "manifest.json"
    data = {**json.loads(path.read_text()), "version": version}
    if sealed:
        data["sha256"] = _digest({key: value for key, value in data.items() if key != "sha256"})
    write_json(path, data)
    words = f"expected format {FORMAT_VERSION} of run folders, .* got {version}, of {age} graftwork"
    with pytest.raises(RunError, match=words):
        Manifest.load(run.path)
    with pytest.raises(RunError, match=words):
        RunFolder.open(run.path)
    with pytest.raises(RunError, match=words):
        Session.resume(run.path)
    with pytest.raises(RunError, match=words):
        options_of(run.path)
    with pytest.raises(RunError, match=words):
        read_run(run.path)
    with pytest.raises(RunError, match=words):
        open_classifier(run.path)
