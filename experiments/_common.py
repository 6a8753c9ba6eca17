"""What all experiments share: seeds one by one, each stored when done, so that an interrupted experiment continues."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from graftwork.runs import provenance, write_json
from graftwork.session import Problem, SearchConfig

Row = dict[str, Any]
"""What one seed gave: plain data."""


@dataclass(frozen=True)
class Experiment:
    """One experiment that ``python -m experiments`` knows.

    Args:
        name: Name on the command line.
        question: The question, in a sentence.
        run_seed: ``(problem, config, scale, note)`` → what one seed gave. ``scale`` 1 is the full size; ``note`` is
            called with a line now and then.
        summarise: Rows of all seeds → the numbers to quote.
        draw: Rows and a folder → writes figures.
        recipe: Recipe of the config that ``run_seed`` gets.
    """

    name: str
    question: str
    run_seed: Callable[[Problem, SearchConfig, float, Callable[[str], None]], Row]
    summarise: Callable[[Sequence[Row]], dict[str, Any]]
    draw: Callable[[Sequence[Row], Path], None]
    recipe: str = "paper"


def run_experiment(
    experiment: Experiment,
    out: Path,
    *,
    data: str,
    seeds: Sequence[int],
    scale: float,
    note: Callable[[str], None],
    **options: Any,
) -> dict[str, Any]:
    """Run an experiment over seeds, store each, then summary and figures.

    Args:
        experiment: Experiment to run.
        out: Folder of the results; seeds that are stored there are not run again.
        data: Data set.
        seeds: Seeds, at least one.
        scale: Factor on the number of steps; 1 is the full size.
        note: Function called with a line of progress.
        **options: Options of `SearchConfig`, such as ``threads`` and ``precision``.

    Returns:
        What ``summary.json`` holds.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for seed in seeds:
        path = out / f"seed-{seed}.json"
        if path.is_file():
            rows.append(json.loads(path.read_text(encoding="utf-8")))
            continue
        config = SearchConfig.from_dict({"data": data, "recipe": experiment.recipe, "seed": seed, **options})
        note(f"{experiment.name}: seed {seed}")
        row = experiment.run_seed(Problem.load(config), config, scale, note)
        write_json(path, row)
        rows.append(row)
    summary = {
        "experiment": experiment.name,
        "question": experiment.question,
        "data": Path(data).name,
        "seeds": list(seeds),
        "scale": scale,
        "provenance": provenance(),
        **experiment.summarise(rows),
    }
    write_json(out / "summary.json", summary)
    experiment.draw(rows, out)
    return summary


def mean_and_spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, sample standard deviation (0 for a single value), smallest, largest and number."""
    spread = stdev(values) if len(values) > 1 else 0.0
    return {"mean": fmean(values), "std": spread, "min": min(values), "max": max(values), "num": len(values)}


def spread_text(numbers: Mapping[str, float], form: str = ".4f", *, factor: float = 1.0) -> str:
    """Mean ± deviation of what `mean_and_spread` gives, or the mean alone where there is one value.

    Args:
        numbers: Mean, deviation and number.
        form: How the mean is written; the deviation has as many digits.
        factor: What both are multiplied by.
    """
    mean = f"{factor * numbers['mean']:{form}}"
    return f"{mean} ± {factor * numbers['std']:{form.lstrip('+')}}" if numbers["num"] > 1 else mean


def without_folders(value: Any) -> Any:
    """Plain data in which files are named without the folders of one machine."""
    if isinstance(value, Mapping):
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folders(inner) for inner in value]
    return value.rpartition("/")[2] if isinstance(value, str) and value.startswith("/") else value


def curve_bands(curves: Sequence[Sequence[float]]) -> tuple[list[float], list[float], list[float]]:
    """Mean, lowest and highest of several curves, point by point."""
    columns = list(zip(*curves, strict=True))
    return [fmean(c) for c in columns], [min(c) for c in columns], [max(c) for c in columns]
