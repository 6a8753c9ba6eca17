"""Budgets of time count from the start of the command."""

import subprocess
import sys
from time import monotonic

import pytest

from graftwork.cli import _app, _clock, main


def test_a_process_knows_when_it_was_started() -> None:
    code = (
        "import time; time.sleep(0.3); from graftwork.cli._clock import process_began; "
        "print(time.monotonic() - process_began())"
    )
    began = monotonic()
    age = float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert age <= monotonic() - began + 0.1
    if sys.platform.startswith("linux"):
        assert age >= 0.3


def test_a_command_of_a_program_begins_when_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_app, "process_began", lambda: 5.0)
    before = monotonic()
    with pytest.raises(SystemExit):
        main(["--version"])
    assert before <= _clock.began_at() <= monotonic()
    monkeypatch.setattr(sys, "argv", ["graftwork", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert _clock.began_at() == 5.0
