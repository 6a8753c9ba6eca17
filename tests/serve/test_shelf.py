"""A shelf tells what run folders hold, and reads no more than what has changed."""

import json
from pathlib import Path
from typing import Any

import pytest

from graftwork.errors import InputError
from graftwork.runs import RunFolder
from graftwork.serve import Shelf, Snapshot, _shelf
from tests.reports.synthetic import make_run_folder


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the files at every call."""
    monkeypatch.setattr(_shelf, "PERIOD", 0.0)
    monkeypatch.setattr(_shelf, "_RESCAN", 0.0)


def the_one(shelf: Shelf) -> Snapshot:
    (found,) = shelf.snapshots()
    return found


def append(folder: Path, **changes: Any) -> None:
    """Append the last round again, as another one; replace the file, as runs do."""
    path = folder / "records.jsonl"
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    last = json.loads(next(line for line in reversed(lines) if '"generation", "generation"' in line))
    line = json.dumps({**last, "generation": last["generation"] + 1, **changes}) + "\n"
    aside = path.with_name("aside")
    aside.write_text("".join([*lines, line]))
    aside.replace(path)


def test_every_state_of_a_run_is_told(folders: Path) -> None:
    found = {one.name: one.state for one in Shelf([folders]).snapshots()}
    states = {name: name for name in ("running", "stopped", "dead", "broken")}
    assert found == {**states, "done": "finished", "a <b>&amp; c": "stopped"}


def test_a_run_that_has_only_just_begun_is_running_and_empty(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "new", {"config.toml": ""}):
        one = the_one(Shelf([tmp_path]))
    assert (one.state, one.error) == ("running", "")
    assert one.run is not None
    assert (one.run.rounds, one.run.provenance) == ((), {})


def test_a_running_run_tells_what_its_records_hold(folders: Path) -> None:
    one = next(one for one in Shelf([folders]).snapshots() if one.state == "running")
    assert one.run is not None
    assert one.run.rounds[-1].generation == 2
    assert "process" in one.owner
    assert (one.run.members, one.run.predictions) == ({}, {})


def test_only_new_lines_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, parsed = make_run_folder(tmp_path, finished=False, num_generations=1), list[int]()
    parse = _shelf.parse_records

    def counted(data: bytes, *args: Any, **options: Any) -> Any:
        rows = parse(data, *args, **options)
        parsed.append(len(rows))
        return rows

    monkeypatch.setattr(_shelf, "parse_records", counted)
    shelf = Shelf([folder])
    first = the_one(shelf)
    assert the_one(shelf) is first
    append(folder)
    second = the_one(shelf)
    assert second.run is not None
    assert second.run.rounds[-1].generation == 2
    assert second.revision == first.revision + 1
    assert parsed[0] > 100
    assert parsed[1:] == [1]


def test_records_that_a_resume_has_cut_back_are_read_from_the_start(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, finished=False, num_generations=1)
    before = (folder / "records.jsonl").read_bytes()
    shelf = Shelf([folder])
    append(folder, mean_loss=7.0)
    first = the_one(shelf)
    (folder / "records.jsonl").write_bytes(before)
    append(folder, mean_loss=8.0)
    second = the_one(shelf)
    assert first.run is not None
    assert second.run is not None
    assert [one.mean_loss for one in first.run.rounds[-1:]] == [7.0]
    assert [one.mean_loss for one in second.run.rounds[-1:]] == [8.0]
    assert len(second.run.rounds) == len(first.run.rounds)


def test_a_line_that_is_half_written_is_left_for_the_next_look(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, finished=False, num_generations=1)
    assert not (folder / "records.jsonl").read_bytes().endswith(b"\n")
    assert the_one(Shelf([folder])).state == "stopped"


def test_runs_that_appear_and_go_are_followed(tmp_path: Path) -> None:
    shelf = Shelf([tmp_path])
    assert shelf.snapshots() == []
    folder = make_run_folder(tmp_path, finished=False, num_generations=1)
    one = the_one(shelf)
    assert shelf.find(one.id) is one
    folder.rename(tmp_path.parent / f"{tmp_path.name}-moved")
    assert shelf.snapshots() == []
    assert shelf.find(one.id) is None


def test_links_below_a_place_are_passed_over(folders: Path) -> None:
    assert (folders / "elsewhere" / "config.toml").is_file()
    assert "elsewhere" not in {one.name for one in Shelf([folders]).snapshots()}


def test_a_file_of_a_run_that_is_a_link_is_refused(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, finished=False, num_generations=1)
    secret = tmp_path / "secret"
    (folder / "provenance.json").rename(secret)
    (folder / "provenance.json").symlink_to(secret)
    one = the_one(Shelf([folder]))
    assert one.state == "broken"
    assert "link" in one.error


def test_a_place_that_is_none_is_an_error_of_one_form(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a run folder, or a folder of them, got none; check the path"):
        Shelf([tmp_path / "nothing"])
