"""What `benchmarks/protocol.py` measures in a short search, and how it adds it up."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def protocol(benchmark: Callable[[str], Any]) -> Any:
    return benchmark("protocol")


def test_training_is_multiplied_up_scoring_is_not_and_rounds_are_added(protocol: Any) -> None:
    row = {"ours_update": [0.01, 0.02], "ours_scoring": 3.0, "mutation": 1.0}
    row |= {"naive_update": [0.1, 0.1], "naive_scoring": 7.0}
    assert protocol.extrapolated([row, row], 0) == pytest.approx((2 * (50 + 3 + 1), 2 * (500 + 7)))
    assert protocol.extrapolated([row, row], 1) == pytest.approx((2 * (100 + 3 + 1), 2 * (500 + 7)))


def test_a_short_search_is_measured_in_every_round(
    protocol: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "protocol.json"
    arguments = ["protocol.py", "--quick", "--threads", "1", "--data", str(pictures), "--json", str(out)]
    monkeypatch.setattr("sys.argv", arguments)
    protocol.main()
    found = json.loads(out.read_text())
    assert [len(row["layers"]) for row in found["rounds"]] == [1, 10, 10]
    for row in found["rounds"]:
        assert len(row["ours_update"]) == len(row["naive_update"]) == 2
        assert min(*row["ours_update"], *row["naive_update"], row["ours_scoring"], row["naive_scoring"]) > 0
    assert [row["mutation"] > 0 for row in found["rounds"]] == [False, True, True]
    spread, minutes = found["ratio"], found["minutes"]
    assert spread["min"] <= spread["median"] <= spread["max"]
    assert minutes["naive"]["max"] / minutes["ours"]["min"] >= spread["max"]
    assert found["updates_run_of_each_round"] == 20
    assert found["protocol"] == {"rounds": 3, "updates_of_each_round": 5000}


@pytest.mark.slow
def test_workers_make_the_same_rounds(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "protocol.json"
    command = [sys.executable, "benchmarks/protocol.py", "--quick", "--threads", "2", "--workers", "2"]
    subprocess.run([*command, "--data", str(pictures), "--json", str(out)], check=True, stdout=subprocess.DEVNULL)
    found = json.loads(out.read_text())
    assert [len(row["layers"]) for row in found["rounds"]] == [1, 10, 10]
    assert all(len(row["ours_update"]) == len(row["naive_update"]) == 2 for row in found["rounds"])
    assert found["workers"] == 2
