"""Does training that makes survivors differ make their ensemble better? Ways to train, and two controls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graftwork.experiments._arms import check_ensembles, make_run
from graftwork.experiments._arms_table import (
    differences_table,
    diversity_table,
    draw_arms,
    summarise_arms,
    table_of_arms,
)
from graftwork.experiments._common import Row
from graftwork.experiments._controls import control_entries, control_tasks, ensemble_pairs, num_networks
from graftwork.experiments._entries import CHOSEN, Entry, difference, search_entries
from graftwork.experiments._study import Case, Study
from graftwork.experiments._tasks import Task

PLAIN = "search"
TOGETHER = "all together"
"""Stands for K members a step, whatever K is."""
WAYS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    "fork": {"fork_fraction": 0.25, "fork_layer": 2},
    "fork, weighted": {
        "fork_fraction": 0.25,
        "fork_layer": 2,
        "members_per_step": TOGETHER,
        "hit_power": 2.0,
    },
    "fork, own augmentations": {"fork_fraction": 0.25, "fork_layer": 2, "line_shifts": (0, 2, 4)},
    "private heads": {"fork_fraction": 0.25, "fork_layer": 99},
    "branches": {"fork_fraction": 0.0, "fork_layer": 2, "fork_start": "random", "members_per_step": TOGETHER},
    "weighted": {"members_per_step": TOGETHER, "hit_power": 2.0},
    "fork, weighted, voting": {
        "fork_fraction": 0.25,
        "fork_layer": 2,
        "members_per_step": TOGETHER,
        "hit_power": 2.0,
        "vote_weight": 0.3,
    },
    "branches, voting": {
        "fork_fraction": 0.0,
        "fork_layer": 2,
        "fork_start": "random",
        "members_per_step": TOGETHER,
        "vote_weight": 0.3,
    },
    "fork, slow trunk": {"fork_fraction": 0.5, "fork_layer": 2, "trunk_rate": 0.1},
}
"""Arm → options of the recipe. Forks are copies (of the head alone, if the layer lies behind all), branches begin anew
(Lee et al. 2015); own augmentations shift by up to 0, 2 and 4 pixels; ``weighted`` has co-evolution's weights in the
loss; with ``voting`` members learn from each other (Zhang et al. 2018). Voting alone can't part copies
that are trained together, so it is added to the two arms whose members part by other means."""


def _path(case: Case, arm: str) -> Path:
    return case.path(arm.replace(", ", "-").replace(" ", "-"))


def _ways(case: Case) -> dict[str, Mapping[str, Any]]:
    """Those that were asked for; the plain search is always one, as both controls train what it found."""
    return {arm: way for arm, way in WAYS.items() if case.takes(arm) or arm == PLAIN}


def tasks(case: Case) -> list[Task]:
    """Every way to train, and the controls, which train the genome of the plain search's largest survivor."""
    options = {**case.options, "budget": case.size}
    check_ensembles(options)
    found = []
    for arm, way in _ways(case).items():
        own = {key: num_networks(case) if value == TOGETHER else value for key, value in way.items()}
        path = _path(case, arm)
        found.append(Task(path.name, make_run, (path, {**options, **own})))
    return found + control_tasks(case, _path(case, PLAIN))


def row(case: Case) -> Row:
    """Read the finished runs of one seed."""
    arms: dict[str, dict[str, Entry]] = {}
    diversity: dict[str, dict[str, Any]] = {}
    for arm in _ways(case):
        arms[arm], diversity[arm] = search_entries(_path(case, arm))
    controls, measures = control_entries(case)
    arms, diversity = {**arms, **controls}, {**diversity, **measures}
    return {
        "arms": {arm: {line: entry.to_dict() for line, entry in lines.items()} for arm, lines in arms.items()},
        "diversity": diversity,
        "differences": _differences(arms, list(_ways(case))),
    }


def _differences(arms: Mapping[str, Mapping[str, Entry]], ways: Sequence[str]) -> dict[str, Any]:
    """Each way's ensemble against its own best member, the plain search's ensemble and both controls."""
    pairs: dict[str, tuple[Entry, Entry]] = {}
    for arm in ways:
        pairs |= ensemble_pairs(arms, arm)
        if arm != PLAIN:
            pairs[f"{arm}: ensemble − ensemble of {PLAIN}"] = arms[arm][CHOSEN], arms[PLAIN][CHOSEN]
    return {name: difference(*pair) for name, pair in pairs.items()}


def tabulate(summary: Mapping[str, Any]) -> str:
    """Arms side by side, how differently their members err, and the differences that the question turns on."""
    return "\n".join([table_of_arms(summary), diversity_table(summary), differences_table(summary)])


def draw(summary: Mapping[str, Any], cases: Sequence[Case], out: Path) -> None:
    """Bars of all arms, and the profiles of the plain search and the fork side by side where their runs are at hand."""
    draw_arms(summary, [_path(cases[0], arm) for arm in (PLAIN, "fork")], out)


DIVERSITY = Study(
    "diversity",
    "At equal FLOPs, does training that makes survivors differ (forks, private heads, own augmentations, branches, "
    "co-evolution's weights in the loss, votes, a slow trunk) make their ensemble better than the plain search's, one "
    "network with all the FLOPs, and a deep ensemble?",
    "default",
    "budget",
    "0.05PFLOP",
    tasks,
    row,
    summarise_arms,
    tabulate,
    draw,
    arms=tuple(WAYS),
)
