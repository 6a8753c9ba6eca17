"""Faults of every kind at a few points; the programs beside this file try all of them (``docs/reliability.md``)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults._layer import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="the file layer needs Linux and a C compiler")
ROOT = Path(__file__).parents[2]


def sum_of(program: str, folder: Path, *options: object) -> dict[str, Any]:
    """Run a program of faults; what it found, of which nothing may be wrong."""
    words = [sys.executable, "-m", f"tests.faults.{program}", "--json", folder / "sum.json", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT))), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(word) for word in words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "sum.json").read_text())
    return found


@pytest.mark.slow
def test_a_handful_of_each_fault_ends_with_the_same_bits_or_is_told(tmp_path: Path) -> None:
    found = sum_of("short", tmp_path)
    assert set(found["groups"]) == {
        "kills",
        "errors",
        "processes",
        "newest checkpoint",
        "unfinished",
        "finished",
        "saves",
    }
    assert found["wrong"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("program", ["kills", "errors", "flips", "processes", "saves"])
def test_more_of_each_fault(program: str, tmp_path: Path) -> None:
    assert sum_of(program, tmp_path, "--points", 8)["trials"] >= 8


@pytest.mark.slow
def test_searches_in_one_process_leave_nothing_behind(tmp_path: Path) -> None:
    found = sum_of("soak", tmp_path, "--minutes", 3)["summary"]
    assert found["searches"] > 1
    assert found["different_banks"] == 1
