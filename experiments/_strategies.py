"""Do search strategies repair a seed network of the wrong size? Each against the envelope of fixed sizes."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments._arms import ALONE, make_run
from experiments._common import Row, mean_and_spread
from experiments._strategies_seeds import MISFITS, SIZES
from experiments._study import Case, Study
from experiments._tasks import Task
from graftwork.evolution.strategies import STRATEGIES
from graftwork.networks.genome import Genome
from graftwork.runs import RunFolder, write_text
from graftwork.session import Problem, SearchConfig

SEED_ALONE = "alone"
COMPARED = tuple(name for name in STRATEGIES if name != "family")
"""Strategies that look for one good network; a family wants one of every size."""


def make_sized(path: Path, options: Mapping[str, Any], genome: Genome) -> None:
    """Bring a run to its end that begins with a genome, which is stored beside it.

    Args:
        path: Run folder.
        options: Options of `SearchConfig`.
        genome: The seed network.
    """
    file = path.with_name(f"{path.name}-genome.json")
    write_text(file, genome.to_json(indent=2) + "\n")
    make_run(path, {**options, "genome": str(file)})


def tasks(case: Case) -> list[Task]:
    """Fixed sizes alone, seeds of the wrong size alone, and these again by every strategy; all at one budget."""
    options = {**case.options, "budget": case.size, "control": False}
    problem = Problem.load(SearchConfig.from_dict(options))
    what = problem.input_shape, len(problem.dataset.class_names)
    given = {name: (kind(*what), {**options, **ALONE}) for name, kind in SIZES.items()}
    for seed, kind in MISFITS.items():
        given[f"{seed}-{SEED_ALONE}"] = kind(*what), {**options, **ALONE}
        given |= {f"{seed}-{name}": (kind(*what), {**options, "strategy": name}) for name in COMPARED}
    paths = {name: case.path(name) for name in given}
    return [Task(paths[name].name, make_sized, (paths[name], own, genome)) for name, (genome, own) in given.items()]


def row(case: Case) -> Row:
    """Read the finished runs of one seed: accuracies, FLOPs and parameters by seed network and arm."""
    arms = (SEED_ALONE, *COMPARED)
    return {
        "sizes": {name: _outcome(case.path(name)) for name in SIZES},
        "misfits": {seed: {arm: _outcome(case.path(f"{seed}-{arm}")) for arm in arms} for seed in MISFITS},
    }


def _outcome(path: Path) -> dict[str, float]:
    result = RunFolder.open(path).result()
    best = result["best"]
    return {
        "validation_accuracy": best["validation_accuracy"],
        "test_accuracy": best["test_accuracy"],
        "parameters": best["parameters"],
        "spent_flops": result["training_flops"] + result["scoring_flops"],
    }


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Means over seeds, and the share of the gap between a seed alone and the envelope that each strategy closes.

    The envelope is the fixed size that is best on validation, seed by seed. The share is that of the gaps' sum, so that
    seeds that lack little, whose share would be noise over noise, weigh little.
    """
    arms = (SEED_ALONE, *COMPARED)
    tested = {
        seed: {arm: [row["misfits"][seed][arm]["test_accuracy"] for row in rows] for arm in arms} for seed in MISFITS
    }
    best = [max(row["sizes"].values(), key=lambda entry: entry["validation_accuracy"]) for row in rows]
    envelope = [entry["test_accuracy"] for entry in best]
    gaps = [top - alone for found in tested.values() for top, alone in zip(envelope, found[SEED_ALONE], strict=True)]
    gains = {
        name: [
            one - alone for found in tested.values() for one, alone in zip(found[name], found[SEED_ALONE], strict=True)
        ]
        for name in COMPARED
    }
    return {
        "envelope": mean_and_spread(envelope),
        "sizes": {name: mean_and_spread([row["sizes"][name]["test_accuracy"] for row in rows]) for name in SIZES},
        "misfits": {seed: {arm: mean_and_spread(found[arm]) for arm in arms} for seed, found in tested.items()},
        "mean_gap": fmean(gaps),
        "closed": {name: sum(found) / sum(gaps) if sum(gaps) > 0 else None for name, found in gains.items()},
        "gain": {name: {**mean_and_spread(found), "worst": min(found)} for name, found in gains.items()},
    }


def tabulate(summary: Mapping[str, Any]) -> str:
    """Markdown: test accuracy in percent of every seed network and strategy, and what they close of the gap."""

    def line(name: str, cells: Iterable[str]) -> str:
        return f"| {name} | {' | '.join(cells)} |"

    lines = [line("test accuracy, %", summary["misfits"]["poster"]), "|---" * (2 + len(COMPARED)) + "|"]
    for seed, found in summary["misfits"].items():
        lines.append(line(seed, (f"{100 * entry['mean']:.2f}" for entry in found.values())))
    shares, gains = summary["closed"].values(), summary["gain"].values()
    closed = ("–" if share is None else f"{100 * share:.0f} %" for share in shares)
    lines.append(line("share of the gap closed", ("", *closed)))
    lines.append(line("mean gain, points", ("", *(f"{100 * gain['mean']:+.2f}" for gain in gains))))
    lines.append(line("worst, points", ("", *(f"{100 * gain['worst']:+.2f}" for gain in gains))))
    sizes = ", ".join(f"{name} {100 * found['mean']:.2f}" for name, found in summary["sizes"].items())
    best = f"Envelope (the fixed size that is best on validation): {100 * summary['envelope']['mean']:.2f}"
    return "\n".join([*lines, "", f"{best}; mean gap {100 * summary['mean_gap']:.2f} points.", f"Alone: {sizes}.", ""])


def draw(summary: Mapping[str, Any], cases: Sequence[Case], out: Path) -> None:
    """Draw nothing: the table says it."""


STRATEGY_STUDY = Study(
    "strategies",
    "At equal FLOPs, how much of the gap between a seed network of the wrong size and the best fixed size does each "
    "search strategy close?",
    "default",
    "budget",
    "100GFLOP",
    tasks,
    row,
    summarise,
    tabulate,
    draw,
)
