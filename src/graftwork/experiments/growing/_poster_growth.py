"""R2WiderR and R2DeeperR at the poster's own size, beside scratch with as many updates and with as many FLOPs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from graftwork.experiments._common import Row
from graftwork.experiments.growing._branch import Bench, Branch, bench_of, plan_of_growth
from graftwork.experiments.growing._channel_form import run_channel_form
from graftwork.experiments.growing._grid import Cell, GridExperiment, Setting
from graftwork.experiments.growing._poster_report import draw, summarise, tables
from graftwork.experiments.growing._widths import build, task_of
from graftwork.genome import Genome, Layer, seed_genome, training_flops
from graftwork.training import Schedule, constant, cosine, warmup_stable_decay
from graftwork.transforms import R2RDeepen, R2RWiden, RandomPadding, Transform, compose

__all__ = ["POSTER_GROWTH"]

FULL_STEPS = 6000
"""Updates at scale 1: the poster's."""
POINTS = 8
DECAY, WARMUP = 0.25, 200
"""Share of the updates at the end in which the stable rate falls; updates over which new blocks warm up."""
LATE, EARLY = (0.5, 0.75), (0.0, 0.25)
"""Moments of growth, as shares of the updates."""
SCHEDULES: Mapping[str, Schedule] = {
    "constant": constant(),
    "stable, decay": warmup_stable_decay(warmup=0.0, decay=DECAY),
    "cosine": cosine(),
}


@dataclass(frozen=True)
class Change:
    """A growth to the base network.

    Args:
        small: Base network → the network to grow from.
        transform: From that to the base network's size.
    """

    small: Callable[[Genome], Genome]
    transform: Transform


def half_as_wide(base: Genome) -> Genome:
    """The base network with half the filters in every block."""
    body = tuple(
        replace(item, blocks=tuple(replace(b, hidden_channels=b.hidden_channels // 2) for b in item.blocks))
        if isinstance(item, Layer)
        else item
        for item in base.body
    )
    return base.replace(body=body)


def half_as_deep(base: Genome) -> Genome:
    """h_i: one layer in each stage."""
    return seed_genome("poster", base.input_shape, base.num_classes)


def widen_every_layer(genome: Genome, *, rng: Any) -> Any:
    """As many filters again in every layer, in blocks beside those that are there."""
    parts = [
        R2RWiden(position, hidden_channels=item.blocks[0].hidden_channels)
        for position, item in enumerate(genome.body)
        if isinstance(item, Layer)
    ]
    return compose(*parts)(genome, rng=rng)


def deepen_every_stage(genome: Genome, *, rng: Any) -> Any:
    """One layer more behind every layer, with as many filters as that one has."""
    positions = [(index, item) for index, item in enumerate(genome.body) if isinstance(item, Layer)]
    parts = [
        R2RDeepen(index + 1 + number, hidden_channels=item.blocks[0].hidden_channels)
        for number, (index, item) in enumerate(positions)
    ]
    return compose(*parts)(genome, rng=rng)


CHANGES: Mapping[str, Change] = {
    "widen": Change(half_as_wide, widen_every_layer),
    "deepen": Change(half_as_deep, deepen_every_stage),
}


def num_steps(setting: Setting) -> int:
    """Updates of a full run."""
    return max(2 * POINTS, round(FULL_STEPS * setting.scale))


def _bench(setting: Setting, seed: int) -> Bench:
    return bench_of(setting.data, seed=seed, precision=setting.precision, num_points=POINTS, total=num_steps(setting))


def _base(bench: Bench) -> Genome:
    return seed_genome("base", bench.problem.input_shape, len(bench.problem.dataset.class_names))


def equal_steps(base: Genome, change: str, moment: float, total: int) -> dict[str, int]:
    """Updates of the base network, and of the small one, for the FLOPs of a run that is grown at a moment."""
    small = training_flops(CHANGES[change].small(base), 1)
    full = training_flops(base, 1)
    spent = plan_of_growth(small, full, round(moment * total), total)
    return {"base": int(spent // full), "small": int(spent // small)}


def cells(setting: Setting) -> list[Cell]:
    """For every seed: scratch, growth late and early, ways to grow at half time, cosine; then deepening."""
    bench = _bench(setting, 0)
    base, total = _base(bench), bench.total
    full = 64.0 * training_flops(base, 1)
    found = []
    for seed in setting.seeds:
        for change in CHANGES:
            small = 64.0 * training_flops(CHANGES[change].small(base), 1)
            costs = {
                "scratch": 1.9 * total * full,
                "late": 1.9 * total * small + total * full,
                "early": 0.25 * total * small + 2.25 * total * full,
                "ways": 0.5 * total * (small + 4 * full),
                "cosine": 0.5 * total * small + 2.25 * total * full,
            }
            for kind, cost in costs.items():
                if change == "widen" or kind in {"scratch", "late"}:
                    options = {"change": change, "kind": kind, "seed": seed}
                    found.append(Cell(f"{change}-{kind}-s{seed}", cost, options))
    return found


def run_cell(setting: Setting, cell: Cell) -> Row:
    """Train the runs of one kind; those with a common beginning share it."""
    bench, change = _bench(setting, int(cell.options["seed"])), str(cell.options["change"])
    runs: list[Row] = []
    KINDS[cell.options["kind"]](bench, change, runs)
    return {
        "runs": runs,
        "spent_flops": cell.flops,
        "spent_seconds": sum(run["points"][-1]["seconds"] for run in runs),
        "data": bench.problem.describe(),
    }


def _finish(branch: Branch, schedule: str, total: int, runs: list[Row], **what: Any) -> None:
    """Train a copy to the end of a schedule and keep what it gives."""
    done = branch.fork().train(total, SCHEDULES[schedule], total=total).end()
    runs.append({"schedule": schedule, **what, **done})


def _decay_from(total: int) -> int:
    return total - round(DECAY * total)


def _scratch(bench: Bench, change: str, runs: list[Row]) -> None:
    """The base network at a constant rate, and what falls off it at the end: for all FLOPs, and for the grown ones'."""
    base, total = _base(bench), bench.total
    equal = {moment: equal_steps(base, change, moment, total)["base"] for moment in LATE}
    branch = bench.begin(base)
    for moment, steps in sorted(equal.items(), key=lambda entry: entry[1]):
        branch.train(_decay_from(steps), constant(), total=total)
        _finish(branch, "stable, decay", steps, runs, arm="base", budget=moment)
    branch.train(_decay_from(total), constant(), total=total)
    _finish(branch, "stable, decay", total, runs, arm="base", budget=None)
    _finish(branch, "constant", total, runs, arm="base", budget=None)


def _late(bench: Bench, change: str, runs: list[Row]) -> None:
    """The small network as it is, grown late, and trained longer for the FLOPs of growth at half time."""
    base, total = _base(bench), bench.total
    branch = bench.begin(CHANGES[change].small(base))
    for moment in LATE:
        branch.train(round(moment * total), constant(), total=total)
        _grown(branch, change, moment, runs)
    branch.train(_decay_from(total), constant(), total=total)
    _finish(branch, "stable, decay", total, runs, arm="small", budget=None)
    _finish(branch, "constant", total, runs, arm="small", budget=None)
    longer = equal_steps(base, change, LATE[0], total)["small"]
    branch.train(_decay_from(longer), constant(), total=longer)
    _finish(branch, "stable, decay", longer, runs, arm="small", budget=LATE[0])


def _grown(branch: Branch, change: str, moment: float, runs: list[Row]) -> None:
    """Grow by blocks with fresh moments; go on at the constant rate, and once let it fall."""
    total = branch.bench.total
    grown = branch.fork().grow(CHANGES[change].transform)
    what = {"arm": "grown", "way": "blocks", "moment": moment}
    grown.train(max(grown.steps, _decay_from(total)), constant(), total=total)
    _finish(grown, "stable, decay", total, runs, **what)
    _finish(grown, "constant", total, runs, **what)


def _early(bench: Bench, change: str, runs: list[Row]) -> None:
    """Grown at the very beginning and at a quarter."""
    branch = bench.begin(CHANGES[change].small(_base(bench)))
    for moment in EARLY:
        branch.train(round(moment * bench.total), constant(), total=bench.total)
        _grown(branch, change, moment, runs)


def _ways(bench: Bench, change: str, runs: list[Row]) -> None:
    """Other ways to widen at half time, each with the rate falling at the end."""
    total, transform, schedule = bench.total, CHANGES[change].transform, "stable, decay"
    branch = bench.begin(CHANGES[change].small(_base(bench)))
    branch.train(round(0.5 * total), constant(), total=total)
    length = max(1, round(WARMUP * total / FULL_STEPS))
    what = {"arm": "grown", "moment": 0.5}
    _finish(branch.fork().grow(transform, warmup=length), schedule, total, runs, way="blocks, warm-up", **what)
    _finish(branch.fork().grow(transform, rate_rule=True), schedule, total, runs, way="blocks, rate rule", **what)
    padded = branch.fork().grow(RandomPadding(transform))
    _finish(padded, schedule, total, runs, way="random padding", **what)
    found = run_channel_form(branch, SCHEDULES[schedule], width=0.5, total=total)
    runs.append({"schedule": schedule, "way": "channels, state carried", **what, **found})


def _cosine(bench: Bench, change: str, runs: list[Row]) -> None:
    """The same by one cosine: scratch with all updates, scratch with the grown one's FLOPs, grown at half time."""
    base, total, cosine_ = _base(bench), bench.total, SCHEDULES["cosine"]
    equal = equal_steps(base, change, 0.5, total)["base"]
    for steps, budget in ((total, None), (equal, 0.5)):
        _finish(bench.begin(base), "cosine", steps, runs, arm="base", budget=budget)
    branch = bench.begin(CHANGES[change].small(base)).train(round(0.5 * total), cosine_, total=total)
    branch.grow(CHANGES[change].transform)
    _finish(branch, "cosine", total, runs, arm="grown", way="blocks", moment=0.5)


KINDS: Mapping[str, Callable[[Bench, str, list[Row]], None]] = {
    "scratch": _scratch,
    "late": _late,
    "early": _early,
    "ways": _ways,
    "cosine": _cosine,
}
"""What a cell trains, by name."""


def probe(setting: Setting) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """The base network and a batch."""
    return build(setting, "full", 0), task_of(setting, 0).batch(0)


POSTER_GROWTH = GridExperiment(
    "poster-growth",
    "Does the base network end as well when it starts half as wide or half as deep and grows on the way?",
    cells,
    run_cell,
    probe,
    summarise,
    tables,
    draw,
    num_seeds=5,
    partial=True,
)
