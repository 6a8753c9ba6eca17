"""One process at a time has a run; another one is told which, takes over from a dead one, and can ask it to stop."""

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from graftwork.errors import RunError
from graftwork.runs import RunFolder, run_state, stop_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run")


def test_one_process_at_a_time_has_a_run_and_the_other_is_told_which(run: RunFolder) -> None:
    with pytest.raises(RunError, match=rf"in use by process {os.getpid()} on .* since 20"):
        RunFolder(run.path).lock()
    assert run_state(run.path)[0] == "running"
    run.release()
    assert run_state(run.path) == ("stopped", "")
    with RunFolder(run.path):
        pass


def test_a_run_is_stopped_by_a_signal_that_its_process_answers(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    with pytest.raises(RunError, match="expected a process that answers SIGTERM, got process"):
        stop_run(run.path)  # this one would just be killed
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        stop_run(run.path)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sent == [(os.getpid(), signal.SIGTERM)]


def test_a_process_that_a_note_names_but_that_has_no_lock_is_never_stopped(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.release()
    monkeypatch.setattr("graftwork.runs._lock._answers", lambda pid: True)
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)) if number else None)
    with pytest.raises(RunError, match="one that is stopped; there is nothing to stop"):
        stop_run(run.path)
    for pid, host, reason in (
        (os.getppid(), socket.gethostname(), "expected a process that answers"),
        (0, socket.gethostname(), "expected a process that answers"),
        (os.getppid(), "elsewhere", "can't be stopped from here"),
    ):
        (run.path / "owner.json").write_text(json.dumps({"pid": pid, "host": host, "since": "then"}))
        with pytest.raises(RunError, match=reason):
            stop_run(run.path)
    assert not sent


def test_a_lock_of_a_dead_process_is_taken_over_and_what_it_left_aside_is_swept(run: RunFolder) -> None:
    run.release()
    owner = {"pid": 2**22 + 1, "host": socket.gethostname(), "since": "then"}
    (run.path / "owner.json").write_text(json.dumps(owner))
    (run.path / ".result.json.999999999.tmp").write_text("{")
    (run.path / "checkpoints" / ".search-00000004.999999999.tmp").mkdir()
    mine = run.path / f".result.json.{os.getppid()}.tmp"  # a process that lives
    mine.write_text("{")
    assert run_state(run.path)[0] == "dead"
    with RunFolder(run.path):
        assert run_state(run.path)[0] == "running"
    assert list(run.path.rglob(".*.tmp")) == [mine]
