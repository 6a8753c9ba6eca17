"""The command line: what a user types, sees and gets back."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graftwork.cli import main
from graftwork.runs import run_state

QUICK = ["--recipe", "paper", "--budget", "30steps", "--num-generations", "2", "--population-size", "3"]
QUICK += ["--num-survivors", "2", "--threads", "1", "--precision", "float32"]
QUICK += ["--batch-size", "16"]


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search with its control and report; what it said is in ``out`` and ``err`` beside it."""
    path = tmp_path_factory.mktemp("cli") / "run"
    out, err = ((path.parent / name).open("w") for name in ("out", "err"))
    with out, err, redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr("graftwork.reports._build.run_figures", lambda run: ())  # most of a report's time
        assert call("search", *QUICK, "--control", "--out", str(path)) == 0
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "seven.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 12), dtype=np.uint8)).save(path)
    return path


def test_search_leaves_a_report_and_tells_where(run: Path) -> None:
    assert (run / "report.html").is_file()
    assert str(run / "report.html") in (run.parent / "out").read_text()
    assert "generation 2" in (run.parent / "err").read_text()


def test_search_says_what_it_looks_through_before_it_has(run: Path) -> None:
    first, second, *_ = (run.parent / "err").read_text().splitlines()
    assert first == f"run folder: {run}; looking through digits"
    assert second.startswith("data: 1,797 images")


def test_search_for_machines_prints_json_lines_only(tmp_path: Path, capsys: Any) -> None:
    assert call("search", *QUICK, "--json", "--no-report", "--out", str(tmp_path / "r")) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [row["type"] for row in rows if row["type"] != "look"]  # which a busy machine takes
    assert told == ["outline", "stage", "generation", "generation", "generation", "result"]
    assert (rows[0]["images"], rows[0]["classes"], rows[0]["input_shape"]) == (1797, 10, [1, 8, 8])
    assert rows[-1]["bank_sha256"]


def test_config_prints_what_search_reads_back(tmp_path: Path, capsys: Any) -> None:
    assert call("config", "--recipe", "paper", "--seed", "3") == 0
    path = tmp_path / "c.toml"
    path.write_text(capsys.readouterr().out)
    assert call("config", "--config", str(path)) == 0
    assert capsys.readouterr().out == path.read_text()
    from graftwork.session import SearchConfig

    assert SearchConfig.load(path).seed == 3
    assert SearchConfig.load(path).recipe.name == "paper"
    assert SearchConfig.load(path, seed=5).seed == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "--data", "nowhere/at/all.parquet"], "nowhere"),
        (["search", "--budget", "soon"], "soon"),
        (["search", "--budget", "0.00001GFLOP", "--recipe", "paper"], "budget"),
        (["search", "--recipe", "papr"], "paper"),
        (["search", "--selection", "gredy"], "greedy"),
        (["search", "--num-survivors", "20"], "num_survivors"),
        (["search", "--resume", "missing", "--seed", "1"], "seed"),
        (["search", "--resume", "missing"], "missing"),
        (["search", "--device", "abacus"], "abacus"),
        (["search", "--genome", "missing.json"], "missing.json"),
        (["search", "--config", "missing.toml"], "missing.toml"),
        (["search", "--no-such-option"], "no-such-option"),
        (["inspect", "missing"], "missing"),
        (["predict", "missing", "x.png"], "missing"),
        (["data", "--data", "missing/x"], "missing"),
    ],
)
def test_bad_input_is_one_clear_message_and_exit_code_2(
    arguments: list[str], words: str, capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_unknown_keys_of_a_config_get_a_suggestion(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "c.toml"
    path.write_text("popluation_size = 3\n")
    assert call("search", "--config", str(path)) == 2
    assert "population_size" in capsys.readouterr().err


def test_inspect_shows_runs_members_genomes_and_checkpoints(run: Path, capsys: Any) -> None:
    best = json.loads((run / "result.json").read_text())["best"]["id"]
    checkpoint = sorted((run / "checkpoints").iterdir())[0]
    for target, words in (
        (run, "generation"),
        (run / "members" / f"{best}.json", "parameters"),
        (run / "seed_genome.json", "3×3"),
        (checkpoint, "step"),
    ):
        assert call("inspect", str(target)) == 0
        assert words in capsys.readouterr().out
        assert call("inspect", str(target), "--json") == 0
        json.loads(capsys.readouterr().out)


def test_export_and_predict_agree(run: Path, image: Path, tmp_path: Path, capsys: Any) -> None:
    assert call("predict", str(run), str(image), "--json") == 0
    of_run = json.loads(capsys.readouterr().out)
    assert call("export", str(run), "--out", str(tmp_path / "model")) == 0
    assert call("export", str(run), "--out", str(tmp_path / "model")) == 2
    assert call("export", str(run), "--out", str(tmp_path / "model"), "--overwrite") == 0
    capsys.readouterr()
    assert call("predict", str(tmp_path / "model"), str(image), "--json") == 0
    of_export = json.loads(capsys.readouterr().out)
    assert of_run["class"] == of_export["class"]
    assert abs(of_run["probability"] - of_export["probability"]) < 1e-4


def test_predictions_are_written_as_csv_or_json(run: Path, image: Path, tmp_path: Path) -> None:
    assert call("predict", str(run), str(image.parent), "--out", str(tmp_path / "p.csv")) == 0
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0] == "file,class,probability"
    assert len(lines) == 2
    assert call("predict", str(run), str(image), "--out", str(tmp_path / "p.json")) == 0
    assert json.loads((tmp_path / "p.json").read_text())[0]["file"] == str(image)


def test_train_trains_one_genome_alone(run: Path, tmp_path: Path) -> None:
    genome = str(run / "seed_genome.json")
    arguments = ["--recipe", "paper", "--budget", "20steps", "--threads", "1", "--quiet", "--no-report"]
    assert call("train", "--genome", genome, *arguments, "--out", str(tmp_path / "t")) == 0
    found = json.loads((tmp_path / "t" / "result.json").read_text())
    assert found["generations"] == 0
    assert len(found["survivors"]) == 1


def test_a_family_tells_its_sizes_before_and_leaves_each_with_its_accuracy_cost_and_latency(
    tmp_path: Path, capsys: Any
) -> None:
    arguments = ["--recipe", "paper", "--budget", "12steps", "--sizes", "2", "--threads", "1", "--no-report"]
    assert call("family", *arguments, "--out", str(tmp_path / "f")) == 0
    captured = capsys.readouterr()
    assert "family: 2 sizes of 0.0" in captured.err
    found = json.loads((tmp_path / "f" / "result.json").read_text())
    assert found["steps"] == 12
    small, large = found["survivors"]
    assert large["flops"] > 1.5 * small["flops"]
    assert set(found["latency"]["networks"]) == {small["id"], large["id"]}
    assert [opening["members"] for opening in found["test_openings"]] == [[small["id"], large["id"]]]
    assert {"test_accuracy", "parameters"} <= set(small)
    assert captured.out.count("ms") >= 2
    config = (tmp_path / "f" / "config.toml").read_text()
    assert all(f"{name} = 2\n" in config for name in ("num_generations", "population_size", "num_survivors"))
    assert call("family", "--sizes", "0", "--out", str(tmp_path / "g")) == 2
    assert call("search", "--strategy", "family", "--control", "--out", str(tmp_path / "g")) == 2
    assert not (tmp_path / "g").exists()


def test_data_tells_splits_and_fingerprint(capsys: Any) -> None:
    assert call("data", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "digits"
    assert sum(found["splits"].values()) == 1797


def test_a_genome_for_other_images_is_refused(tmp_path: Path, capsys: Any) -> None:
    from graftwork.networks.genome import seed_genome

    path = tmp_path / "g.json"
    path.write_text(seed_genome("poster", (3, 32, 32), 10).to_json())
    assert call("search", "--genome", str(path), "--out", str(tmp_path / "r")) == 2
    assert not (tmp_path / "r").exists()


HEEDING = """
import signal, sys
for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # as in a terminal, also where the tests run under nohup
    signal.signal(getattr(signal, name), signal.SIG_DFL)
from graftwork.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("name", "code"),
    [
        pytest.param("SIGINT", 130, marks=pytest.mark.slow),
        ("SIGTERM", 143),
        pytest.param("SIGHUP", 129, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_end_stores_tells_how_to_go_on_and_has_its_exit_code(tmp_path: Path, name: str, code: int) -> None:
    path = tmp_path / "run"
    arguments = [*QUICK, "--budget", "4000steps", "--out", str(path), "--no-report"]
    command = [sys.executable, "-c", HEEDING, "search", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        for _ in range(600):
            if (path / "provenance.json").is_file():
                break
            time.sleep(0.1)
        time.sleep(0.5)
        os.kill(process.pid, getattr(signal, name))
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"--resume {path}" in said.decode()
    assert list((path / "checkpoints").iterdir())
    assert run_state(path) == ("stopped", "")
