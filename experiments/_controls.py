"""Controls of a study of ensembles: what the FLOPs of a search buy without one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments._arms import make_control
from experiments._entries import BEST, CHOSEN, deep_ensemble_entries, search_entries
from experiments._study import Case
from experiments._tasks import Task
from graftwork.metrics import Entry
from graftwork.session import SearchConfig

ALONE, DEEP = "largest survivor's genome alone", "deep ensemble"


def _networks(case: Case) -> list[Path]:
    """The deep ensemble: as many networks as a search has survivors."""
    return [case.path(f"deep-{n}") for n in range(SearchConfig.from_dict(case.options).recipe.num_survivors)]


def control_tasks(case: Case, source: Path, *, with_scoring: bool = True) -> list[Task]:
    """Train the genome of a search's largest survivor once with all its FLOPs, and K times with 1/K of them.

    Args:
        case: Case of the study.
        source: Run folder of the search, for whose task the controls wait.
        with_scoring: Whether they get the FLOPs that the search spent on scoring, too.
    """
    needs = (source.name,)
    alone = case.path("alone")
    found = [Task(alone.name, make_control, (alone, case.options, source, 1, with_scoring), needs)]
    networks = _networks(case)
    for number, path in enumerate(networks):
        own = {**case.options, "seed": case.seed + 1000 * (number + 1)}
        found.append(Task(path.name, make_control, (path, own, source, len(networks), with_scoring), needs))
    return found


def control_entries(case: Case) -> tuple[dict[str, dict[str, Entry]], dict[str, dict[str, Any]]]:
    """Arms of the finished controls by name, and the diversity of the deep ensemble."""
    alone, _ = search_entries(case.path("alone"))
    deep, diversity = deep_ensemble_entries(_networks(case))
    return {ALONE: {BEST: alone[BEST]}, DEEP: deep}, {DEEP: diversity}


def ensemble_pairs(arms: Mapping[str, Mapping[str, Entry]], arm: str) -> dict[str, tuple[Entry, Entry]]:
    """An arm's chosen ensemble against its own best member and against both controls: name → what is compared."""
    ensemble = arms[arm][CHOSEN]
    return {
        f"{arm}: ensemble − its best member": (ensemble, arms[arm][BEST]),
        f"{arm}: ensemble − {ALONE}": (ensemble, arms[ALONE][BEST]),
        f"{arm}: ensemble − mean of the deep ensemble": (ensemble, arms[DEEP]["mean"]),
    }
