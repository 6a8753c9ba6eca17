"""Loggers write what a search tells them, with the real packages where they are installed."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from graftwork.cli import main
from graftwork.errors import ConfigError, InputError, RunError
from graftwork.loggers import SINKS, Listeners, OptunaListener, SinkListener, make_logger
from graftwork.session import SearchConfig, Session, SilentListener

OPTIONS = {
    "recipe": {"name": "paper", "num_generations": 2, "population_size": 2, "num_survivors": 2, "batch_size": 16},
    "initial_steps": 52,
    "steps_per_generation": 3,
    "precision": "float32",
    "passes": "torch",
    "threads": 1,
    "control": True,
    "blend": 20,  # suffices for the mean alone
}
NAMES = {
    "search/loss",
    "search/validation/best",
    "search/validation/mean",
    "search/score",
    "search/members",
    "search/training_flops",
    "search/scoring_flops",
    "test/best",
    "test/recommended",
    "seconds",
}


class Kept:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.options: list[Mapping[str, Any]] = []
        self.rows: list[tuple[int, str, float]] = []
        self.closed = 0

    def begin(self, options: Mapping[str, Any]) -> None:
        self.options.append(options)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.rows += [(step, name, value) for name, value in values.items()]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Kept, dict[str, Any], list[str]]:
    """What a sink and a listener beside it are told of one search."""
    sink, beside, notes = Kept(), Notes(), list[str]()
    logger = SinkListener(sink)
    beside.said = notes
    config = SearchConfig.from_dict(OPTIONS)
    session = Session.start(config, tmp_path_factory.mktemp("runs") / "a", listener=Listeners([beside, logger]))
    result = session.run()
    logger.finish(result)
    logger.close()
    return sink, dict(result), notes


class Notes(SilentListener):
    said: list[str]

    def on_stage(self, stage: str, setup: Any) -> None:
        self.said.append(stage)

    def on_generation(self, stage: str, generation: Any) -> None:
        self.said.append(f"{stage} {generation.number}")


def test_a_sink_is_told_losses_generations_and_the_result(heard: tuple[Kept, dict[str, Any], list[str]]) -> None:
    sink, result, notes = heard
    assert [options["recipe"]["initial_steps"] for options in sink.options] == [52]
    assert {name for _, name, _ in sink.rows if not name.startswith("control/")} == NAMES
    losses = [step for step, name, _ in sink.rows if name == "search/loss"]
    assert losses == [50, 52, 55, 58]
    assert [step for step, name, _ in sink.rows if name == "search/members"] == [52, 55, 58]
    assert ("test/best", result["best"]["test_accuracy"]) in [(name, value) for _, name, value in sink.rows]
    assert any(name == "control/validation/best" for _, name, _ in sink.rows)
    assert sink.closed == 1
    assert notes[:5] == ["search", "search 0", "search 1", "search 2", "control"]


def _play(name: str, folder: Path) -> None:
    """Let a logger hear a short search whose folder is there."""
    folder.mkdir(exist_ok=True)
    sink = SINKS[name](folder)
    sink.begin({"recipe": {"name": "paper", "rate": 0.5}, "seed": 0})
    sink.write(1, {"search/loss": 2.0, "search/score": 0.25})
    sink.write(2, {"search/loss": 1.0})
    sink.close()


def test_the_table_has_a_row_for_each_number_and_goes_on_below(tmp_path: Path) -> None:
    _play("csv", tmp_path / "run")
    _play("csv", tmp_path / "run")
    rows = list(csv.reader((tmp_path / "run" / "log" / "numbers.csv").read_text().splitlines()))
    once = [["1", "search/loss", "2.0"], ["1", "search/score", "0.25"], ["2", "search/loss", "1.0"]]
    assert rows == [["step", "name", "value"], *once, *once]


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_the_scalars(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _play("tensorboard", tmp_path / "run")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "log" / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("search/loss")] == [(1, 2.0), (2, 1.0)]
    assert "options/text_summary" in events.Tags()["tensors"]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_one_run_with_parameters_also_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    _play("mlflow", tmp_path / "run")
    _play("mlflow", tmp_path / "run")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("graftwork")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"recipe.name": "paper", "recipe.rate": "0.5", "seed": "0"}
    history = client.get_metric_history(run.info.run_id, "search/loss")
    assert sorted((entry.step, entry.value) for entry in history) == [(1, 2.0), (1, 2.0), (2, 1.0), (2, 1.0)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_leaves_an_offline_run_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    for name, value in {
        "MODE": "offline",
        "SILENT": "true",
        "DATA_DIR": str(tmp_path),
        "ERROR_REPORTING": "false",
    }.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    _play("wandb", tmp_path / "run")
    wandb.teardown()  # its process writes a little later
    (written,) = (tmp_path / "run" / "log" / "wandb").glob("offline-run-*/run-*.wandb")
    assert json.loads((tmp_path / "run" / "log" / "wandb.json").read_text())["run"] in written.name
    assert b"search/loss" in written.read_bytes()


@pytest.mark.filterwarnings("ignore")
def test_optuna_prunes_a_search_between_generations(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    class After(optuna.pruners.BasePruner):
        """Gives every second trial up after its first generation."""

        def prune(self, study: Any, trial: Any) -> bool:
            return trial.number % 2 == 1 and trial.last_step == 0

    def objective(trial: Any) -> float:
        trial.suggest_int("population_size", 2, 3)
        config = SearchConfig.from_dict({**OPTIONS, "control": False, "initial_steps": 4})
        session = Session.start(config, tmp_path / str(trial.number), listener=OptunaListener(trial))
        return session.run()["best"]["validation_score"]

    study = optuna.create_study(direction="maximize", pruner=After())
    study.optimize(objective, n_trials=2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED"]
    assert list(study.trials[0].intermediate_values) == [0, 1, 2]
    assert list(study.trials[1].intermediate_values) == [0]
    assert not (tmp_path / "1" / "result.json").exists()


def _command(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--log", "csv", "--no-report", "--quiet"])
    assert end.value.code in (None, 0)


def test_the_command_logs_and_a_resume_may_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--budget", "4steps", "--num-generations", "0", "--recipe", "paper", "--precision", "float32"]
    _command("search", *options, "--passes", "torch", "--threads", "1", "--out", "run")
    rows = (tmp_path / "run" / "log" / "numbers.csv").read_text()
    assert "search/loss" in rows
    assert "test/best" in rows
    _command("search", "--resume", "run")


def test_a_log_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="got a link"):
        _play("csv", tmp_path / "run")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_unknown_and_missing_loggers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        make_logger("tensorbord", tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(InputError, match=r"pip install 'graftwork\[wandb\]'"):
        make_logger("wandb", tmp_path)
