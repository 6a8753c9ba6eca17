"""A run folder holds what was written whole, and says what is wrong with what is not."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork.errors import ResourceError, RunError
from graftwork.runs import RunFolder, write_bytes, write_json
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


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, ResourceError), (errno.EDQUOT, ResourceError), (errno.EIO, OSError)]
)
def test_a_failing_write_leaves_the_old_file_and_nothing_else(
    number: int, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"kept": 1})
    monkeypatch.setattr(os, "fsync", refuse(number))
    with pytest.raises(error):
        write_bytes(path, b"half of it")
    assert json.loads(path.read_text()) == {"kept": 1}
    assert names(tmp_path) == ["result.json"]


def test_a_full_disk_keeps_the_last_checkpoint_and_tells_to_resume(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.save_checkpoint("search", 3, {"n": 3}, TENSORS)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse(errno.ENOSPC))
        with pytest.raises(ResourceError, match="free some space and resume"):
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


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
def test_a_damaged_checkpoint_falls_back_and_two_damaged_ones_are_an_error(run: RunFolder, name: str) -> None:
    for step in (1, 2):
        run.save_checkpoint("search", step, {"n": step}, TENSORS)
    (run.path / "checkpoints" / "search-00000002" / name).write_bytes(b"cut")
    found = run.load_checkpoint("search")
    assert found is not None
    assert found[0] == {"n": 1}
    (run.path / "checkpoints" / "search-00000001" / name).unlink()
    with pytest.raises(RunError, match=r"no checkpoint can be read.*search-00000002.*search-00000001"):
        run.load_checkpoint("search")


def test_records_after_a_checkpoint_are_forgotten_and_half_lines_are_passed_over(run: RunFolder) -> None:
    assert run.records() == []
    run.append_records([member("m1"), member("zwei ü")])
    offset = run.records_offset
    run.append_records([member("m3")])
    with run.records_path.open("a") as file:
        file.write('{"n": ')
    assert [row.id for row in run.records()] == ["m1", "zwei ü", "m3"]
    run.truncate_records(offset)
    assert [row.id for row in run.records()] == ["m1", "zwei ü"]
    run.append_records([member("m4")])
    assert [row.id for row in run.records()] == ["m1", "zwei ü", "m4"]
    with pytest.raises(RunError, match="bytes"):
        run.truncate_records(10**6)


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
