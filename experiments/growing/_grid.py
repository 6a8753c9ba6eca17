"""Experiments over a grid: one JSON a cell, several cells at a time, cost told before the start."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from experiments._common import Row, without_folders
from experiments._tasks import Task, run_tasks
from experiments.growing._learner import Learner
from graftwork.errors import ConfigError
from graftwork.machine import measure_precision
from graftwork.runs import provenance, write_json, write_text
from graftwork.training import Precision

TOLD, TIMED = 24, 3
"""Names of cells that a line holds; updates by which the speed is told before the start."""


@dataclass(frozen=True)
class Setting:
    """What all cells of a grid share.

    Args:
        data: Data set, for experiments with images.
        seeds: Seeds, at least one.
        scale: Factor on budgets and numbers of updates; 1 is the full size.
        precision: Precision of the products.
        threads: Threads of each process.
        folder: Where the results go; cells may keep there what later ones go on from.
    """

    data: str
    seeds: tuple[int, ...]
    scale: float
    precision: Precision = "float32"
    threads: int = 1
    folder: str = "."

    def identity(self) -> dict[str, Any]:
        """What two cells must agree in to stand in one table."""
        return {"data": Path(self.data).name, "scale": self.scale, "precision": self.precision}


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    Args:
        name: Name of its file; unique in the grid.
        flops: FLOPs of its training, as planned.
        options: What the experiment needs to know of it; always its ``seed``.
    """

    name: str
    flops: float
    options: Mapping[str, Any]


def rows_with(rows: Mapping[str, Row], **options: Any) -> list[Row]:
    """The rows of cells with these options."""
    return [row for row in rows.values() if options.items() <= row["options"].items()]


@dataclass(frozen=True)
class Table:
    """Rows of text under a title, for ``tables.md``.

    Args:
        title: One line.
        columns: Headings of the columns.
        rows: As many entries as columns each.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return f"## {self.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _seed_by_seed(cell: Cell) -> tuple[float, ...]:
    return cell.options["seed"], -cell.flops


@dataclass(frozen=True)
class GridExperiment:
    """An experiment whose cells are independent of each other.

    Args:
        name: Name on the command line.
        question: The question, in a sentence.
        cells: All cells of a setting.
        run_cell: Setting and cell → what it gave, plain data.
        probe: A typical learner, on whose model and first batch both precisions are timed.
        summarise: Stored cells by name → the numbers to quote.
        tables: The summary → tables.
        draw: Stored cells by name, and a folder → writes figures.
        order: Cell → what cells are sorted by before they run. By default seed by seed, so that a broken-off grid is
            whole for the first seeds, and long cells first.
        cost: Setting and cells in that order → FLOPs that they will take, where cells share training. None: their sum.
        num_seeds: Unless the user says otherwise.
        partial: Whether ``summarise``, ``tables`` and ``draw`` take any cells, so that some may be left for later.
        only: Patterns of names of cells to run, such as ``"widen-at-50-*"``; the summary tells which ones are left.
            Empty: all.
    """

    name: str
    question: str
    cells: Callable[[Setting], Sequence[Cell]]
    run_cell: Callable[[Setting, Cell], Row]
    probe: Callable[[Setting], Learner]
    summarise: Callable[[Mapping[str, Row]], dict[str, Any]]
    tables: Callable[[Mapping[str, Any]], Sequence[Table]]
    draw: Callable[[Mapping[str, Row], Path], None]
    order: Callable[[Cell], tuple[float, ...]] = _seed_by_seed
    cost: Callable[[Setting, Sequence[Cell]], float] | None = None
    num_seeds: int = 3
    partial: bool = False
    only: tuple[str, ...] = ()


@dataclass
class _Progress:
    note: Callable[[str], None]
    total: int
    flops: float
    done: int = field(default=0, init=False)
    spent: float = field(default=0.0, init=False)

    def finished(self, cell: Cell) -> None:
        self.done += 1
        self.spent += cell.flops
        self.note(f"  {self.done}/{self.total} {cell.name} ({100 * self.spent / self.flops:.0f} % of the FLOPs)")


def run_grid(
    experiment: GridExperiment,
    out: Path,
    *,
    data: str,
    seeds: Sequence[int],
    scale: float,
    note: Callable[[str], None],
    jobs: int = 1,
    threads: int | None = None,
    precision: str | None = None,
) -> dict[str, Any]:
    """Run the cells that are not stored yet, then write summary, tables and figures from all that are.

    Args:
        experiment: Experiment to run.
        out: Folder; cells that are stored in ``out/cells`` are not run again.
        data: Data set, for experiments with images.
        seeds: Seeds, at least one.
        scale: Factor on budgets and numbers of updates; 1 is the full size.
        note: Function called with a line of cost or progress.
        jobs: Number of processes at a time.
        threads: Threads of each process; None: 1 with several jobs, torch's choice otherwise.
        precision: ``"float32"`` or ``"bfloat16"``. None or ``"auto"`` times both, once for the folder.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ConfigError: The folder holds cells of another setting, or its ``only`` fits none.
        ResourceError: A process was lost; finished cells are kept.
    """
    (out / "cells").mkdir(parents=True, exist_ok=True)
    count = threads if threads is not None else 1 if jobs > 1 else torch.get_num_threads()
    torch.set_num_threads(count)
    setting = Setting(data, tuple(seeds), scale, threads=count, folder=str(out))
    chosen = _precision(experiment, setting, out, precision, note)
    setting = replace(setting, precision=chosen)
    cells = experiment.cells(setting)
    stored = {cell.name: row for cell in cells if (row := _stored(setting, out, cell)) is not None}
    chosen_cells = _chosen(experiment, cells)
    missing = sorted((c for c in chosen_cells if c.name not in stored), key=experiment.order)
    told = f"{len(missing)} of {len(cells)} cells to run, {_cost(experiment, setting, missing, jobs)}"
    note(f"{experiment.name}: {told}")
    progress = _Progress(note, len(missing), sum(c.flops for c in missing))
    by_name = {cell.name: cell for cell in missing}
    tasks = [Task(cell.name, _work, (experiment.name, setting, out, cell)) for cell in missing]
    for name in run_tasks(tasks, jobs=jobs):
        progress.finished(by_name[name])
    stored |= {c.name: row for c in missing if (row := _stored(setting, out, c)) is not None}
    rows = {cell.name: stored[cell.name] for cell in cells if cell.name in stored}
    left = [cell.name for cell in cells if cell.name not in stored]
    if left:
        more = f" and {len(left) - TOLD} more" if len(left) > TOLD else ""
        note(f"  {len(rows)} cells are there, {len(left)} were not run: {', '.join(left[:TOLD])}{more}")
    return _conclude(experiment, setting, out, rows, left)


def _cost(experiment: GridExperiment, setting: Setting, cells: Sequence[Cell], jobs: int) -> str:
    """FLOPs of cells, and minutes as far as a few updates of a typical network tell."""
    flops = sum(c.flops for c in cells) if experiment.cost is None else experiment.cost(setting, cells)
    told = f"{flops / 1e15:.4f} PFLOP of training"
    if not flops:
        return told
    learner = experiment.probe(setting)
    learner.step(1.0)
    before = learner.seconds
    for _ in range(TIMED):
        learner.step(1.0)
    speed = TIMED * learner.step_flops / (learner.seconds - before)
    return f"{told}, about {flops / speed / 60 / jobs:.0f} minutes at {speed / 1e9:.0f} GFLOP/s a process"


def _chosen(experiment: GridExperiment, cells: Sequence[Cell]) -> Sequence[Cell]:
    """The cells that were asked for."""
    if not experiment.only:
        return cells
    if not experiment.partial:
        raise ConfigError(f"experiments {experiment.name}: runs all of its cells; leave --only out")
    found = [cell for cell in cells if any(fnmatchcase(cell.name, pattern) for pattern in experiment.only)]
    if not found:
        raise ConfigError(
            f"experiments {experiment.name}: expected --only to fit some cells, such as {cells[0].name}, "
            f"got {', '.join(experiment.only)}"
        )
    return found


def _work(name: str, setting: Setting, out: Path, cell: Cell) -> None:
    """One cell, by the experiment's name: functions that it holds need not be picklable."""
    from experiments.growing import GRIDS

    torch.set_num_threads(setting.threads)
    _run_and_store(GRIDS[name], setting, out, cell)


def _run_and_store(experiment: GridExperiment, setting: Setting, out: Path, cell: Cell) -> None:
    row = experiment.run_cell(setting, cell)
    write_json(
        out / "cells" / f"{cell.name}.json",
        {"setting": setting.identity(), "options": dict(cell.options), "provenance": provenance(), **row},
    )


def _stored(setting: Setting, out: Path, cell: Cell) -> Row | None:
    path = out / "cells" / f"{cell.name}.json"
    if not path.is_file():
        return None
    row: Row = json.loads(path.read_text(encoding="utf-8"))
    if row.get("setting") != setting.identity():
        raise ConfigError(
            f"{path}: expected a cell of {setting.identity()}, got one of {row.get('setting')}: give another --out, "
            "or the options of that one"
        )
    return row


def _precision(
    experiment: GridExperiment, setting: Setting, out: Path, wanted: str | None, note: Callable[[str], None]
) -> Precision:
    """What the user says, or what was measured once for this folder: all cells compute alike."""
    if wanted not in {None, "auto", "float32", "bfloat16"}:
        raise ConfigError(f"precision: expected auto, float32 or bfloat16, got {wanted!r}")
    path = out / "precision.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if wanted in {None, "auto", found["precision"]}:
            return found["precision"]  # type: ignore[no-any-return]
        raise ConfigError(f"{out} was begun in {found['precision']}, got {wanted}: give another --out")
    if wanted == "float32" or wanted == "bfloat16":  # noqa: PLR1714 - narrows the type
        choice: dict[str, Any] = {"precision": wanted, "reason": "as asked for"}
    else:
        learner = experiment.probe(setting)
        machine = measure_precision(learner.model, learner.task.batch(0))
        choice = {"precision": machine.precision, "reason": machine.reasons["precision"]}
    write_json(path, choice)
    note(f"{experiment.name}: {choice['precision']} ({choice['reason']})")
    return choice["precision"]  # type: ignore[no-any-return]


def _conclude(
    experiment: GridExperiment, setting: Setting, out: Path, rows: Mapping[str, Row], left: Sequence[str]
) -> dict[str, Any]:
    summary = {
        "experiment": experiment.name,
        "question": experiment.question,
        "setting": {**setting.identity(), "seeds": list(setting.seeds), "threads": setting.threads},
        "cells": list(rows),
        "cells_not_run": list(left),
        "training_flops": sum(row["spent_flops"] for row in rows.values()),
        "training_seconds": sum(row["spent_seconds"] for row in rows.values()),
        "provenance": provenance(),
        **without_folders(experiment.summarise(rows)),
    }
    write_json(out / "summary.json", summary)
    tables = experiment.tables(summary)
    write_text(out / "tables.md", f"# {experiment.question}\n\n" + "\n".join(map(str, tables)))
    experiment.draw(rows, out)
    return summary
