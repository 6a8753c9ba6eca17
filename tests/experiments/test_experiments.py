"""Experiments run on a small scale, store every seed and go on where they were broken off."""

import json
from pathlib import Path

import pytest

from experiments import EXPERIMENTS, Experiment, run_experiment
from experiments._common import mean_and_spread, spread_text, without_folders

TRAINING = {name: e for name, e in EXPERIMENTS.items() if isinstance(e, Experiment)}


@pytest.mark.parametrize(
    "name", [name if name == "base-network" else pytest.param(name, marks=pytest.mark.slow) for name in TRAINING]
)
def test_experiment_leaves_seeds_summary_and_figures(name: str, tmp_path: Path) -> None:
    heard: list[str] = []
    scale = {"rank": 0.001}.get(name, 0.003)
    options = {"data": "digits", "scale": scale, "note": heard.append, "threads": 1, "precision": "float32"}
    summary = run_experiment(TRAINING[name], tmp_path, seeds=[0], **options)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert list(tmp_path.glob("*.svg"))
    before = (tmp_path / "seed-0.json").stat().st_mtime_ns
    run_experiment(TRAINING[name], tmp_path, seeds=[0, 1], **options)
    assert (tmp_path / "seed-0.json").stat().st_mtime_ns == before
    assert (tmp_path / "seed-1.json").is_file()


@pytest.mark.slow
def test_zero_initialised_network_starts_at_exactly_zero_and_its_twins_separate(tmp_path: Path) -> None:
    summary = run_experiment(
        TRAINING["zero-init"], tmp_path, data="digits", seeds=[0], scale=0.02, note=lambda _: None, threads=1
    )
    assert summary["zero-initialised"]["largest_first_output"] == 0
    assert summary["ordinary"]["largest_first_output"] > 0
    assert summary["zero-initialised"]["twin_distance_after_10_steps"]["min"] > 1e-3


def test_one_value_has_no_spread_to_tell() -> None:
    assert spread_text(mean_and_spread([0.5, 0.7]), "+.1f", factor=100) == "+60.0 ± 14.1"
    assert spread_text(mean_and_spread([0.5])) == "0.5000"


def test_files_are_named_without_the_folders_of_one_machine() -> None:
    named = {"alike": [("/home/me/a.parquet: row 3", "relative/b: row 4")], "number": 1.5}
    assert without_folders(named) == {"alike": [["a.parquet: row 3", "relative/b: row 4"]], "number": 1.5}
