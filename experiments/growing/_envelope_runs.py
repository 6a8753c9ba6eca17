"""Growth against the strict envelope: the best size and rate from scratch at every budget, byte GPTs under Muon."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from time import process_time

from experiments._common import Row
from experiments.growing._envelope_plan import DECAY, LARGE, SCREEN, TERA, Run, claims, run_of, sizes_of
from experiments.growing._envelope_report import draw, summarise, tables
from experiments.growing._envelope_trunks import (
    BATCH_SIZE,
    CONTEXT,
    Lineage,
    Size,
    Trunks,
    begin,
    stable,
    text_of,
)
from experiments.growing._grid import Cell, GridExperiment, Setting
from experiments.growing._learner import Learner


@cache
def _cost(size: Size) -> float:
    """FLOPs of an update."""
    return begin(Lineage(0, 1.0, False, (size,)), Setting("", (0,), 1.0)).step_flops


def cells(setting: Setting) -> list[Cell]:
    """The screen for seed 0, claims for all other seeds."""
    found: dict[str, Cell] = {}
    for seed in setting.seeds:
        for run, budget in SCREEN if seed == 0 else claims():
            options = {**asdict(run), "budget": budget, "seed": seed}
            name = f"{run}-{budget:g}T-s{seed}"
            found.setdefault(name, Cell(name, budget * TERA * setting.scale, options))
    return list(found.values())


def _read(cell: Cell) -> tuple[Run, float, Lineage]:
    """The run of a cell, its budget in FLOPs, and what it branches from."""
    budget, seed, run = cell.options["budget"], cell.options["seed"], run_of(cell.options)
    return run, cell.flops, run.lineage(seed, cell.flops, large=budget > LARGE, scale=cell.flops / (budget * TERA))


def run_cell(setting: Setting, cell: Cell) -> Row:
    """Train or fetch the trunk until the rate falls, then a branch to the end of the budget."""
    began = process_time()
    _, budget, lineage = _read(cell)
    trunk, spent = Trunks(setting).reach(lineage, (1 - DECAY) * budget)
    branch = trunk.fork()
    branch.spend(budget, lambda learner: min(stable(learner), (budget - learner.flops) / (DECAY * budget)))
    end = branch.point()
    return {
        "loss": end["loss"],
        "updates": branch.steps,
        "parameters": sum(p.numel() for p in branch.model.parameters()),
        "tokens": branch.steps * BATCH_SIZE * CONTEXT,
        "flops": branch.flops,
        "update_flops": branch.step_flops,
        "first_update_flops": _cost(lineage.sizes[0]),
        "spent_flops": spent + branch.flops - trunk.flops,
        "spent_seconds": process_time() - began,
        "data": text_of(lineage.seed, large=lineage.large).describe(),
    }


def cost(setting: Setting, cells: Sequence[Cell]) -> float:
    """FLOPs that are left to train: what trunks share is paid once, what is kept not at all."""
    trunks, total = Trunks(setting), 0.0
    kept: dict[str, list[float]] = {}

    def reach(lineage: Lineage, until: float) -> float:
        moments = kept.setdefault(str(lineage), trunks.moments(lineage))
        before = [at for at in moments if at <= until]
        moments.append(until)
        if before:
            return until - max(before)
        if not lineage.moments:
            return until
        return reach(lineage.parent, lineage.moments[-1]) + until - lineage.moments[-1]

    for cell in cells:
        total += reach(_read(cell)[2], (1 - DECAY) * cell.flops) + DECAY * cell.flops
    return total


def order(cell: Cell) -> tuple[float, ...]:
    """Seed by seed, small budgets first; of those, what leaves its first trunk early, for trunks only go forward."""
    _, budget, lineage = _read(cell)
    return cell.options["seed"], budget, min((*lineage.moments, (1 - DECAY) * budget))


def probe(setting: Setting) -> Learner:
    """A size in the middle."""
    return begin(Lineage(0, 1.0, False, sizes_of("w64d2")), setting)


ENVELOPE = GridExperiment(
    "envelope",
    "Does a network that grows end below the best size and rate from scratch at its budget?",
    cells,
    run_cell,
    probe,
    summarise,
    tables,
    draw,
    order=order,
    cost=cost,
    num_seeds=1,
    partial=True,
)
"""The experiment over a grid: seed 0 is the screen, further seeds are claims."""
