"""Sinks: a table, TensorBoard, MLflow, Weights & Biases."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from secrets import token_hex
from types import MappingProxyType
from typing import Any

from graftwork._files import check_id, damaged, inside, parse_json, read_bytes, write_json
from graftwork.errors import ConfigError, InputError, did_you_mean
from graftwork.loggers._listeners import Sink, SinkListener

_LONGEST = 500
"""Characters of an option that MLflow takes."""


def _flat(options: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Options of nested tables as one table, with dots in their names."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found


def _noted(path: Path) -> str:
    """Id of a tool's run that an earlier part of the search has noted."""
    with damaged(str(path)):
        return check_id(parse_json(read_bytes(path), str(path))["run"], str(path))


def _missing(name: str) -> InputError:
    return InputError(f"--log {name}: expected the package {name}, found none; pip install 'graftwork[{name}]'")


class CsvSink:
    """A table ``log/numbers.csv`` in the run folder: update, name, value. A resume goes on below.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = inside(folder, "log/numbers.csv")

    def begin(self, options: Mapping[str, Any]) -> None:
        """Open the table; options stand in the run's ``config.toml``."""
        self._path.parent.mkdir(exist_ok=True)
        if not self._path.exists():
            self._path.write_text("step,name,value\n", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row for each number."""
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows((step, name, value) for name, value in values.items())

    def close(self) -> None:
        """Nothing is open."""


class TensorBoardSink:
    """Event files in ``log/tensorboard`` of the run folder (``tensorboard --logdir runs`` shows all runs).

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        self._make: Callable[[], Any] = lambda: SummaryWriter(str(inside(folder, "log/tensorboard")))
        self._writer: Any = None

    def begin(self, options: Mapping[str, Any]) -> None:
        """Open a file of events, which begins with the options as text."""
        self._writer = self._make()
        self._writer.add_text("options", f"```json\n{json.dumps(options, indent=2, default=str)}\n```")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left, and close the file."""
        if self._writer is not None:
            self._writer.close()


class MlflowSink:
    """A run of MLflow, in the store that its own settings name (``MLFLOW_TRACKING_URI``), by the run folder's name.

    A resume goes on in the same run of MLflow, whose id stands in ``log/mlflow.json``.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise _missing("mlflow") from error
        self._make = MlflowClient
        self._name, self._note = folder.name, inside(folder, "log/mlflow.json")
        self._client: Any = None
        self._run = ""

    def begin(self, options: Mapping[str, Any]) -> None:
        """Create a run with the options as its parameters, or go on with that of this run folder."""
        self._client = self._make()
        if self._note.is_file():
            self._run = _noted(self._note)
            self._client.update_run(self._run, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name("graftwork")
        number = self._client.create_experiment("graftwork") if experiment is None else experiment.experiment_id
        self._run = self._client.create_run(number, run_name=self._name).info.run_id
        for name, value in _flat(options).items():
            self._client.log_param(self._run, name, str(value)[:_LONGEST])
        self._note.parent.mkdir(exist_ok=True)
        write_json(self._note, {"run": self._run})

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        """End the run."""
        if self._client is not None:
            self._client.set_terminated(self._run)


class WandbSink:
    """A run of Weights & Biases, in the project ``graftwork``, by the run folder's name.

    It logs in, and where to, as wandb's own settings say; ``WANDB_MODE=offline`` leaves all in ``log/wandb`` of the run
    folder. A resume goes on in the same run of wandb.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb") from error
        self._wandb = wandb
        self._folder = folder
        self._run: Any = None

    def begin(self, options: Mapping[str, Any]) -> None:
        """Begin a run with the options as its configuration, or go on with that of this run folder."""
        note = inside(self._folder, "log/wandb.json")
        inside(self._folder, "log/wandb")
        note.parent.mkdir(exist_ok=True)
        if not note.is_file():
            write_json(note, {"run": token_hex(4)})
        self._run = self._wandb.init(
            project="graftwork",
            name=self._folder.name,
            dir=str(note.parent),
            config=dict(options),
            id=_noted(note),
            resume="allow",
        )
        self._run.define_metric("*", step_metric="update")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers over ``update``, as each stage counts its own."""
        self._run.log({**values, "update": step})

    def close(self) -> None:
        """Send what is left, or write it."""
        if self._run is not None:
            self._run.finish()


SINKS: Mapping[str, Callable[[Path], Sink]] = MappingProxyType(
    {"csv": CsvSink, "tensorboard": TensorBoardSink, "mlflow": MlflowSink, "wandb": WandbSink}
)
"""What ``--log`` takes."""


def make_logger(name: str, folder: Path) -> SinkListener:
    """A listener that logs a search; tell it the result by ``finish``, and ``close`` it.

    Args:
        name: A key of `SINKS`.
        folder: The run folder, which need not be there yet.

    Raises:
        ConfigError: If there is no such logger; suggests the nearest.
        InputError: If its package is not installed.
    """
    if name not in SINKS:
        hint = did_you_mean(name, SINKS) or "; take one of these"
        raise ConfigError(f"--log: expected one of {', '.join(SINKS)}, got {name!r}{hint}")
    return SinkListener(SINKS[name](folder))
