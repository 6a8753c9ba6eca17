"""Studies: experiments whose arms are whole runs, each a folder that is gone on with after a kill."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments._common import Row
from experiments._tasks import Task, run_tasks
from graftwork.errors import ConfigError
from graftwork.runs import provenance, write_json, write_text
from graftwork.session import Problem, SearchConfig
from graftwork.training import Recipe


@dataclass(frozen=True)
class Case:
    """One seed of a study.

    Args:
        seed: Seed of every arm.
        runs: Folder that holds the run folders of all arms.
        options: Options of `SearchConfig` for every arm: data, recipe, seed, threads and so on.
        size: The budget (text) or scale (number) of the study.
    """

    seed: int
    runs: Path
    options: Mapping[str, Any]
    size: str | float

    def path(self, arm: str) -> Path:
        """Run folder of an arm, or without suffix the name of its other files."""
        return self.runs / f"s{self.seed}-{arm}"


@dataclass(frozen=True)
class Study:
    """A comparison of whole runs that ``python -m experiments`` knows.

    Args:
        name: Name on the command line.
        question: The question, in a sentence.
        recipe: Recipe of the arms, unless the user names another.
        measure: Whether its size is a ``"budget"`` or a ``"scale"`` of the recipe's steps.
        size: The size without the option.
        tasks: Case → what has to run, in order.
        row: Case whose tasks are done → what its seed gave: plain data.
        summarise: Rows of all seeds → the numbers to quote.
        tabulate: Summary → Markdown.
        draw: Summary, cases and a folder → writes figures.
    """

    name: str
    question: str
    recipe: str
    measure: Literal["budget", "scale"]
    size: str | float
    tasks: Callable[[Case], list[Task]]
    row: Callable[[Case], Row]
    summarise: Callable[[Sequence[Row]], dict[str, Any]]
    tabulate: Callable[[Mapping[str, Any]], str]
    draw: Callable[[Mapping[str, Any], Sequence[Case], Path], None]


def run_study(
    study: Study,
    out: Path,
    *,
    runs: Path,
    data: str,
    seeds: Sequence[int],
    size: str | float | None = None,
    jobs: int = 1,
    note: Callable[[str], None],
    **options: Any,
) -> dict[str, Any]:
    """Run a study over seeds; summary, table and figures are rewritten after every seed.

    Args:
        study: Study to run.
        out: Folder of the results; seeds that are stored there are not run again.
        runs: Folder of the run folders; finished ones are not run again, interrupted ones continue.
        data: Data set.
        seeds: Seeds, at least one.
        size: Budget or scale; ``None``: the study's own.
        jobs: Number of runs at a time, in processes of their own.
        note: Function called with a line of progress.
        **options: Options of `SearchConfig`, such as ``threads`` and ``precision``.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ConfigError: If a seed or a run of other settings lies there.
        ResourceError: If a process was lost.
    """
    if "budget" in options:
        raise ConfigError(
            f"experiments {study.name}: leave budget out of the options; the size is an argument of its own"
        )
    size = study.size if size is None else size
    shared = {"data": data, "recipe": study.recipe, **options}
    cases = [Case(seed, runs, {**shared, "seed": seed, "split_seed": seed}, size) for seed in seeds]
    config = SearchConfig.from_dict({**cases[0].options, "budget": size if study.measure == "budget" else None})
    # the recipe by its values, not by its name alone: a name may come to mean other values
    named = {**shared, "data": Path(data).name, "recipe": config.recipe.to_dict()}
    settings: dict[str, Any] = {"data": Path(data).name, study.measure: size, "options": named}
    Problem.load(config)
    rows = {case.seed: _stored(out, case, settings) for case in cases}
    todo = {case.seed: study.tasks(case) for case in cases if rows[case.seed] is None}
    tasks = [task for part in todo.values() for task in part]
    out.mkdir(parents=True, exist_ok=True)  # after everything that may be wrong
    runs.mkdir(parents=True, exist_ok=True)
    note(f"{study.name}: {len(todo)} of {len(cases)} seeds to run, {len(tasks)} tasks, {jobs} at a time")
    note(f"  {study.measure} of a run: {size}")
    for number, name in enumerate(run_tasks(tasks, jobs=jobs), start=1):
        note(f"  {name} is done ({number} of {len(tasks)})")
        for case in cases:
            left = todo.get(case.seed, [])
            left[:] = [task for task in left if task.name != name]
            if rows[case.seed] is None and not left:
                rows[case.seed] = {"seed": case.seed, "settings": settings, **study.row(case)}
                write_json(out / f"seed-{case.seed}.json", rows[case.seed])
                _conclude(study, out, cases, rows, settings)
    return _conclude(study, out, cases, rows, settings)


def _stored(out: Path, case: Case, settings: Mapping[str, Any]) -> Row | None:
    path = out / f"seed-{case.seed}.json"
    if not path.is_file():
        return None
    row: Row = json.loads(path.read_text(encoding="utf-8"))
    options = row["settings"]["options"]
    try:  # values that recipes did not have when the seed was run are at their defaults, which change nothing
        options["recipe"] = Recipe.from_dict(options["recipe"]).to_dict()
    except ConfigError as error:
        raise ConfigError(f"{path} was made by another version ({error}); choose another --out or remove it") from error
    if row["settings"] != settings:
        raise ConfigError(f"{path} was made with {row['settings']}, not {settings}; choose another --out or remove it")
    return row


def _conclude(
    study: Study, out: Path, cases: Sequence[Case], rows: Mapping[int, Row | None], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Write summary, table and figures of the seeds that are done."""
    done = [case for case in cases if rows[case.seed] is not None]
    summary = {
        "experiment": study.name,
        "question": study.question,
        "seeds": [case.seed for case in done],
        **settings,
        "provenance": provenance(),
        **study.summarise([row for row in rows.values() if row is not None]),
    }
    write_json(out / "summary.json", summary)
    write_text(out / "table.md", study.tabulate(summary))
    study.draw(summary, done, out)
    return summary
