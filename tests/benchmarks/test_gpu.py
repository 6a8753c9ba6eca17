"""The GPU script: says so where there is none, and times on any device what it can."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def gpu(benchmark: Callable[[str], Any]) -> Any:
    return benchmark("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_it_says_in_one_line_that_there_is_no_device(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--json", str(tmp_path / "gpu.json")])
    assert gpu.main() == 0
    assert capsys.readouterr().out == "there is no CUDA device here: nothing was measured\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ways_are_timed_and_what_fails_is_written(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "BATCH", 4)
    monkeypatch.setattr(gpu, "WIDTH", 4)
    monkeypatch.setattr(gpu, "REPETITIONS", 1)
    rows = gpu.measure("cpu", ways=("eager", "step"), ends=float("inf"))
    assert len(rows) == 8
    assert all(row["milliseconds"] > 0 for row in rows)
    late = gpu.measure("cpu", ways=("eager",), ends=0.0)
    assert {row["error"] for row in late} == {"no time left"}
    broken = gpu.guarded(gpu.passes, "eager", device="nowhere", bfloat16=False, channels_last=False)
    assert "nowhere" in broken["error"]
