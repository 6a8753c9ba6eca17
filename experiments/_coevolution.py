"""Do co-evolved survivors make a better ensemble? Three selections and two controls at equal FLOPs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments._arms import check_ensembles, make_beginning, make_branch
from experiments._arms_table import differences_table, draw_arms, summarise_arms, table_of_arms
from experiments._common import Row
from experiments._controls import control_entries, control_tasks, ensemble_pairs
from experiments._entries import CHOSEN, search_entries
from experiments._leak import leak_test
from experiments._study import Case, Study
from experiments._tasks import Task
from graftwork.metrics import Entry, difference

SELECTIONS = ("coevolution", "greedy", "random")
LEAK = "coevolution, stackers fitted on training data (leak)"


def tasks(case: Case) -> list[Task]:
    """Searches first, which share the first round, as selection does not act in it; then the controls.

    These train the genome of co-evolution's largest survivor, so they wait for it.
    """
    options = {**case.options, "budget": case.size, "control": False}
    check_ensembles(options)
    beginning = case.path("beginning")
    found = [Task(beginning.name, make_beginning, (beginning, options))]
    for selection in SELECTIONS:
        path, own = case.path(selection), {**options, "selection": selection}
        found.append(Task(path.name, make_branch, (path, own, beginning), (beginning.name,)))
    source = case.path(SELECTIONS[0])
    first = source.name
    found.append(Task(f"{first}-leak", leak_test, (source,), (first,)))
    return found + control_tasks(case, source)


def row(case: Case) -> Row:
    """Read the finished runs of one seed."""
    arms: dict[str, dict[str, Entry]] = {}
    diversity: dict[str, dict[str, Any]] = {}
    for selection in SELECTIONS:
        arms[selection], diversity[selection] = search_entries(case.path(selection))
    controls, measures = control_entries(case)
    arms, diversity = {**arms, **controls}, {**diversity, **measures}
    leak = leak_test(case.path(SELECTIONS[0]))  # has been made by a task, and is only read here
    leaked = {row["method"]: row for row in leak["rows"] if row["fitted_on"] == "training"}
    return {
        "arms": {arm: {line: entry.to_dict() for line, entry in lines.items()} for arm, lines in arms.items()}
        | {LEAK: leaked},
        "diversity": diversity,
        "differences": _differences(arms) | leak["differences"],
        "leak": leak,
    }


def _differences(arms: Mapping[str, Mapping[str, Entry]]) -> dict[str, Any]:
    """Each selection's ensemble against its own best member and against what the same FLOPs buy otherwise."""
    pairs: dict[str, tuple[Entry, Entry]] = {}
    for selection in SELECTIONS:
        if CHOSEN not in arms[selection]:
            continue
        pairs |= ensemble_pairs(arms, selection)
        if selection != SELECTIONS[0]:
            ensembles = arms[SELECTIONS[0]][CHOSEN], arms[selection][CHOSEN]
            pairs[f"{SELECTIONS[0]}: ensemble − ensemble of {selection}"] = ensembles
    return {name: difference(*pair) for name, pair in pairs.items()}


def tabulate(summary: Mapping[str, Any]) -> str:
    """Arms side by side, and the differences that the question turns on."""
    return f"{table_of_arms(summary)}\n{differences_table(summary)}"


def draw(summary: Mapping[str, Any], cases: Sequence[Case], out: Path) -> None:
    """Bars of all arms, and the profiles of greedy and co-evolution side by side where their runs are at hand."""
    draw_arms(summary, [cases[0].path(name) for name in ("greedy", "coevolution")], out)


COEVOLUTION = Study(
    "coevolution",
    "At equal FLOPs, is an ensemble of co-evolved survivors better than its best member, than greedy and random "
    "selection, than one network with all the FLOPs, and than a deep ensemble?",
    "default",
    "budget",
    "0.1PFLOP",
    tasks,
    row,
    summarise_arms,
    tabulate,
    draw,
)
