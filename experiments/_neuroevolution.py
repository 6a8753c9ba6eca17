"""The poster's table of results, with ours beside it: base network, neuroevolution, co-evolution, its ensemble."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments._arms import check_ensembles, make_run
from experiments._arms_table import bars_of_arms, differences_table, format_spread, summarise_arms
from experiments._arms_table import table_of_arms as _table_of_arms
from experiments._base_network import BASE_NETWORK
from experiments._common import Row, mean_and_spread
from experiments._controls import ALONE, DEEP, control_entries, control_tasks
from experiments._entries import BEST, POSTER, search_entries
from experiments._study import Case, Study
from experiments._tasks import Task
from graftwork.errors import ConfigError
from graftwork.metrics import Entry, difference
from graftwork.runs import write_json
from graftwork.session import Problem, SearchConfig

ARMS = {"neuroevolution": "greedy", "co-evolution": "coevolution"}
"""As the poster calls it → the selection."""
ON_POSTER = {
    "base network, best of its test samples": 0.70,
    "neuroevolution, best model": 0.74,
    "co-evolution, best model": 0.72,
    "co-evolution, ensemble of the last three": 0.75,
}
NETWORK = "stacked-network"
"""The poster's ensemble added to the mean of the members."""


def tasks(case: Case) -> list[Task]:
    """Both searches, and the base network, as in the poster's table; and the controls of co-evolution.

    The controls get its training FLOPs alone: scoring is not scaled, so at a small scale it would be half of theirs.
    """
    recipe, scale = check_ensembles(case.options).recipe, float(case.size)
    if recipe.initial_steps is None or recipe.steps_per_generation is None:
        raise ConfigError(f"neuroevolution: expected a recipe that counts steps, as paper does, got {recipe.name!r}")
    counts = {"initial_steps": recipe.initial_steps, "steps_per_generation": recipe.steps_per_generation}
    steps = {key: max(1, round(count * scale)) for key, count in counts.items()}
    found = []
    for selection in reversed(ARMS.values()):  # the longest first
        path = case.path(selection)
        own = {"selection": selection, "control": False, **steps}
        found.append(Task(path.name, make_run, (path, {**case.options, **own})))
    base = case.path("base.json")
    found.append(Task(base.name, train_base, (base, case.options, scale)))
    return found + control_tasks(case, case.path("coevolution"), with_scoring=False)


def train_base(path: Path, options: Mapping[str, Any], scale: float) -> None:
    """Train the base network and sample it on the test split as the poster did; leave a finished one as it is."""
    if path.is_file():
        return
    config = SearchConfig.from_dict(options)
    write_json(path, BASE_NETWORK.run_seed(Problem.load(config), config, scale, lambda text: None))


def row(case: Case) -> Row:
    """Read the finished runs of one seed."""
    arms: dict[str, dict[str, Entry]] = {}
    diversity: dict[str, dict[str, Any]] = {}
    for arm, selection in ARMS.items():
        arms[arm], diversity[arm] = search_entries(case.path(selection))
    pairs = {f"{arm}: {POSTER} − its best model": (arms[arm][POSTER], arms[arm][BEST]) for arm in ARMS}
    pairs["best model: co-evolution − neuroevolution"] = arms["co-evolution"][BEST], arms["neuroevolution"][BEST]
    controls, measures = control_entries(case)
    arms, diversity = {**arms, **controls}, {**diversity, **measures}
    for line in (POSTER, NETWORK):
        pairs[f"co-evolution: {line} − {ALONE}"] = arms["co-evolution"][line], arms[ALONE][BEST]
        pairs[f"co-evolution: {line} − mean of the deep ensemble"] = arms["co-evolution"][line], arms[DEEP]["mean"]
    return {
        "base": json.loads(case.path("base.json").read_text(encoding="utf-8")),
        "arms": {arm: {line: entry.to_dict() for line, entry in lines.items()} for arm, lines in arms.items()},
        "diversity": diversity,
        "differences": {name: difference(*pair) for name, pair in pairs.items()},
    }


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """The poster's four rows, and everything else side by side."""
    found = summarise_arms(rows)
    base = {key: mean_and_spread([row["base"][f"{key}_test_accuracy"] for row in rows]) for key in ("best", "final")}
    co = found["arms"]["co-evolution"]
    ours = [
        base["best"],
        found["arms"]["neuroevolution"][BEST]["test_accuracy"],
        co[BEST]["test_accuracy"],
        co[POSTER]["test_accuracy"],
    ]
    poster = [
        {"row": name, "poster": value, "ours": mine}
        for (name, value), mine in zip(ON_POSTER.items(), ours, strict=True)
    ]
    extra = {"row": "base network, final", "poster": None, "ours": base["final"]}
    return {"poster": [*poster, extra], **found}


def tabulate(summary: Mapping[str, Any]) -> str:
    """The poster's table with ours beside it, all lines, and differences."""
    rows = ["| test accuracy, % | poster | ours |", "|---|---|---|"]
    for entry in summary["poster"]:
        poster = "–" if entry["poster"] is None else f"{100 * entry['poster']:.0f}"
        rows.append(f"| {entry['row']} | {poster} | {format_spread(entry['ours'])} |")
    return "\n\n".join(["\n".join(rows), _table_of_arms(summary).rstrip(), differences_table(summary)])


def draw(summary: Mapping[str, Any], cases: Sequence[Case], out: Path) -> None:
    """Ours beside the poster's, and all arms."""
    from graftwork.reports import Bar, bars_figure, write_figure

    bars: list[Bar] = []
    for entry in summary["poster"]:
        mine = entry["ours"]
        bars.append(Bar(entry["row"], *(100 * mine[key] for key in ("mean", "min", "max"))))
        if entry["poster"] is not None:
            bars.append(Bar(f"poster: {entry['row']}", 100 * entry["poster"]))
    ours = [bar.label for bar in bars if not bar.label.startswith("poster: ")]
    figure = bars_figure(bars, xlabel="test accuracy, %", title="The poster's table", highlight=ours)
    write_figure(figure, out / "poster")
    bars_of_arms(summary, out / "accuracy", title="Recipe of the paper")


NEUROEVOLUTION = Study(
    "neuroevolution",
    "Does the poster's table reproduce: base network 0.70, neuroevolution 0.74, co-evolution 0.72, its ensemble 0.75?",
    "paper",
    "scale",
    1.0,
    tasks,
    row,
    summarise,
    tabulate,
    draw,
)
