"""Commands on a finished run: ensembles and distillation; and what they refuse."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_cli import QUICK, call


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "run"
    assert call("search", *QUICK, "--out", str(path), "--quiet", "--no-report") == 0
    return path


def test_penultimate_features_make_ensembles_that_predict(run: Path, tmp_path: Path, capsys: Any) -> None:
    assert call("ensemble", str(run), "--features", "penultimate") == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()] == ["stacked-penultimate", "stacked-calibrated-penultimate"]
    image = tmp_path / "seven.png"
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(image)
    assert call("predict", str(run), str(image), "--ensemble", "stacked-penultimate", "--json") == 0
    assert 0 < json.loads(capsys.readouterr().out)["probability"] <= 1


def test_distil_tells_before_and_both_arms_and_its_networks_predict(run: Path, capsys: Any) -> None:
    assert call("distil", str(run), "--budget", "1GFLOP") == 0
    said = capsys.readouterr().out
    best = json.loads((run / "result.json").read_text())["best"]["id"]
    assert [line.split()[0] for line in said.splitlines()] == [best, f"{best}-distilled", f"{best}-longer", "distilled"]
    assert call("export", str(run), "--member", f"{best}-distilled") == 0
    capsys.readouterr()
    assert call("distil", str(run), "--budget", "1GFLOP", "--json") == 0
    assert json.loads(capsys.readouterr().out)["student"] == best


@pytest.mark.parametrize("name", ["mean-calibrated", "stacked-penultimate"])
def test_an_exported_ensemble_predicts_as_the_run_does(run: Path, tmp_path: Path, name: str, capsys: Any) -> None:
    if name == "stacked-penultimate":
        assert call("ensemble", str(run), "--features", "penultimate", "--method", "stacked") == 0
    assert call("export", str(run), "--ensemble", name, "--out", str(tmp_path / "model")) == 0
    assert "gap to the ensemble" in capsys.readouterr().out
    image = tmp_path / "seven.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8)).save(image)
    rows = []
    for arguments in ([str(run), str(image), "--ensemble", name], [str(tmp_path / "model"), str(image)]):
        assert call("predict", *arguments, "--json") == 0
        rows.append(json.loads(capsys.readouterr().out))
    assert rows[0]["class"] == rows[1]["class"]
    assert rows[0]["probability"] == pytest.approx(rows[1]["probability"], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "--ensemble", "voodoo"], "voodoo"),
        (["export", "--ensemble", "mean", "--member", "m0"], "either"),
        (["export", "--ensemble", "mean", "--to", "stone"], "stone"),
        (["distil", "--budget", "1steps"], "FLOPs"),
        (["distil", "--genome", "m99"], "m99"),
        (["distil", "--ensemble", "voodoo"], "voodoo"),
        (["ensemble", "--method", "voodoo"], "voodoo"),
        (["ensemble", "--features", "pixels"], "pixels"),
        (["ensemble", "--features", "penultimate", "--method", "mean"], "stacked"),
    ],
)
def test_what_a_run_can_not_give_is_one_clear_message(run: Path, arguments: list[str], words: str, capsys: Any) -> None:
    assert call(arguments[0], str(run), *arguments[1:]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
