"""Damage to a run folder: noticed, and either mended from what is left or told in one line."""

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.cases.commands import RESUME, ending_of, graftwork, own_process, require, started, tiny_search


def _result(run: Path) -> Any:
    return json.loads((run / "result.json").read_text())


def _flip(path: Path, mask: int, *, of: Callable[[str], bool]) -> None:
    """Change bits of the third byte of the first tensor of a safetensors file whose name is accepted."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = json.loads(data[8:start])
    name = next(filter(of, tensors))
    data[start + tensors[name]["data_offsets"][0] + 2] ^= mask
    path.write_bytes(data)


def _newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("search-*"))


def test_a_run_without_its_outcome_is_resumed_to_the_same_bits(run: Path) -> None:
    """What the cases below build on: undamaged, this folder is resumed, and the commands read it."""
    before, predictions = _result(run)["bank_sha256"], (run / "predictions" / "test.safetensors").read_bytes()
    (run / "result.json").unlink()
    assert graftwork(*RESUME, run).code == 0
    assert _result(run)["bank_sha256"] == before
    assert (run / "predictions" / "test.safetensors").read_bytes() == predictions
    assert [graftwork(command, run).code for command in ("inspect", "export", "ensemble", "profiles")] == [0] * 4


def test_a_flipped_bit_in_a_checkpoint_does_not_change_what_a_resume_ends_with(run: Path) -> None:
    """The resume ends with other weights and exit code 0."""
    before = _result(run)["bank_sha256"]
    (run / "result.json").unlink()
    newest = _newest(run) / "tensors.safetensors"
    _flip(newest, 0x40, of=lambda name: name.startswith("bank") and "filter" in name)
    ending = graftwork(*RESUME, run)
    assert ending.code != 0 or _result(run)["bank_sha256"] == before


@pytest.mark.parametrize(("command", "damaged"), [("export", "members"), ("ensemble", "predictions")])
def test_a_flipped_bit_in_stored_tensors_is_refused(command: str, damaged: str, run: Path) -> None:
    """Wrong weights are exported, and wrong predictions combined, with exit code 0."""
    name = _result(run)["best"]["id"] if damaged == "members" else "blend"
    _flip(run / damaged / f"{name}.safetensors", 0x10, of=lambda name: name != "__metadata__")
    assert graftwork(command, run).code != 0


@pytest.mark.slow
def test_two_resumes_at_once_leave_each_record_once(tmp_path: Path) -> None:
    """Both append to the same records, or one of them ends in a traceback."""
    made = graftwork(*tiny_search(tmp_path, "--initial-steps", 500))
    require(made.code == 0, made.text)
    records = (tmp_path / "run" / "records.jsonl").read_text().count("\n")
    (tmp_path / "run" / "result.json").unlink()
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        shutil.rmtree(checkpoint)
    for number in range(4):  # one process may be done before the other begins
        run = tmp_path / str(number)
        shutil.copytree(tmp_path / "run", run)
        with started(own_process(*RESUME, run)) as one, started(own_process(*RESUME, run)) as other:
            endings = [ending_of(process) for process in (one, other)]
        assert not any(ending.crashed for ending in endings)
        assert (run / "records.jsonl").read_text().count("\n") == records


@pytest.mark.parametrize(
    ("was", "edited_to"),
    [
        ("seed = 3", "seed = 4"),
        ("batch_size = 16", "batch_size = 17"),
        ("blend = 10", "blend = 20"),
        ('data = "digits"', 'data = "/etc"'),
    ],
)
def test_a_config_that_was_edited_is_not_resumed_to_another_result(was: str, edited_to: str, unfinished: Path) -> None:
    """With another seed the splits differ: the network is scored on images that it was trained on."""
    predictions, config = unfinished / "predictions" / "test.safetensors", unfinished / "config.toml"
    before = predictions.read_bytes()
    edited = config.read_text().replace(was, edited_to)
    require(edited_to in edited, edited)
    config.write_text(edited)
    assert graftwork(*RESUME, unfinished).code != 0 or predictions.read_bytes() == before


def test_a_run_that_was_killed_before_its_config_was_written_is_resumed_or_begun_again(tmp_path: Path) -> None:
    """A resume says that it is no run folder, a new start that it is one."""
    for name in ("checkpoints", "members", "figures", "predictions"):
        (tmp_path / "run" / name).mkdir(parents=True)
    resumed, restarted = graftwork(*RESUME, tmp_path / "run"), graftwork(*tiny_search(tmp_path))
    assert 0 in (resumed.code, restarted.code)


@pytest.mark.parametrize(
    "name",
    [
        "{} (copy)",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("{}.bak", "{}-00000016", "search-9", "search-x")),
    ],
)
def test_a_copy_of_a_checkpoint_does_not_keep_a_run_from_being_resumed(name: str, unfinished: Path) -> None:
    """A file manager's `search-00000016 (copy)` turns every resume into a traceback."""
    newest = _newest(unfinished)
    shutil.copytree(newest, newest.with_name(name.format(newest.name)))
    assert graftwork(*RESUME, unfinished).code == 0


@pytest.mark.parametrize(
    "left",
    [None, *(pytest.param(content, marks=pytest.mark.slow) for content in (b"", b"{}\n", b'{"type": "mem', b"\xff\n"))],
)
def test_a_run_that_has_lost_its_records_is_resumed(left: bytes | None, unfinished: Path) -> None:
    """Two good checkpoints are there, but there is no way on."""
    (unfinished / "records.jsonl").unlink()
    if left is not None:
        (unfinished / "records.jsonl").write_bytes(left)
    assert graftwork(*RESUME, unfinished).code == 0


@pytest.mark.parametrize(
    ("was", "flipped_to"),
    [
        (b'"generation"', b'#generation"'),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in ((b'"m0"', b'"m\x80"'), (b": 0", b": :"), (b"\n", b"\x0b"))
        ),
    ],
)
def test_a_flipped_bit_in_the_records_is_noticed_by_the_resume_or_read_over(
    was: bytes, flipped_to: bytes, unfinished: Path
) -> None:
    """The resume ends with exit code 0; then `inspect` and `report` end in tracebacks."""
    records = unfinished / "records.jsonl"
    records.write_bytes(records.read_bytes().replace(was, flipped_to, 1))
    resumed = graftwork(*RESUME, unfinished)
    assert resumed.code != 0 or graftwork("inspect", unfinished).code == 0


OUTCOMES = {
    "empty": "{}",
    "numbers": '{"best": 5, "survivors": 7}',
    "a list": "[]",
    "texts": '{"best": {"id": "m0"}, "survivors": "m0", "ensemble": "x"}',
    "cut": '{"best": {"id": "m',
}
READERS = ("report", "inspect", "export", "ensemble", "profiles")


@pytest.mark.parametrize(
    ("command", "outcome"),
    [pair for pair in product(READERS, OUTCOMES) if pair != ("inspect", "empty")],  # which is read today
)
def test_an_outcome_of_another_shape_is_no_traceback(command: str, outcome: str, run: Path) -> None:
    """JSON with other keys or types in `result.json` ends five commands in a KeyError or TypeError."""
    (run / "result.json").write_text(OUTCOMES[outcome])
    assert graftwork(command, run).code in (0, 2)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        *(
            ("result.json", "inspect"),
            ("result.json", "report"),
            ("provenance.json", "report"),
            ("config.toml", "report"),
        ),
        *(("records.jsonl", "inspect"), ("manifest.json", "export"), ("ensembles/mean.json", "predict")),
    ],
)
def test_a_file_that_is_nested_too_deeply_is_no_traceback(name: str, command: str, run: Path) -> None:
    """200,000 brackets in any file of a run."""
    deep = "[" * 200_000 + "]" * 200_000
    (run / name).write_text(f"a = {deep}" if name.endswith("toml") else f"{deep}\n")
    more = ("--ensemble", "mean", "--", run, run) if command == "predict" else (run,)
    assert graftwork(command, *more).code in (0, 2)


def test_a_resume_sweeps_what_a_killed_process_left_aside(unfinished: Path) -> None:
    """Half a checkpoint and half an outcome stay in the folder of a finished run."""
    aside = unfinished / "checkpoints" / ".search-00000004.999999.tmp"
    aside.mkdir()
    (aside / "tensors.safetensors").write_bytes(bytes(1000))
    (unfinished / ".result.json.999999.tmp").write_text("{")
    require(graftwork(*RESUME, unfinished).code == 0, "the run is resumed")
    assert list(unfinished.rglob(".*.tmp")) == []
