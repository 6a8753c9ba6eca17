"""R2WiderR and R2DeeperR at the poster's own size, beside scratch with as many updates and with as many FLOPs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from experiments._common import Row
from experiments.growing._branch import Bench, Branch, bench_of, plan_of_growth
from experiments.growing._channel_form import run_channel_form
from experiments.growing._grid import Cell, GridExperiment, Setting
from experiments.growing._growth import probe
from experiments.growing._poster_report import draw, summarise, tables
from graftwork.evolution.transforms import R2RDeepen, R2RWiden, RandomPadding, Transform, compose
from graftwork.networks.genome import Genome, Layer, seed_genome, training_flops
from graftwork.training import Schedule, constant, cosine, warmup_stable_decay

FULL_STEPS = 6000
"""Updates at scale 1: the poster's."""
POINTS = 8
DECAY, WARMUP = 0.25, 200
"""Share of the updates at the end in which the stable rate falls; updates over which new blocks warm up."""
MOMENTS = {"at-0": 0.0, "at-25": 0.25, "at-50": 0.5, "at-75": 0.75}
"""Cell → moment of growth, as a share of the updates."""
LATE = (0.5, 0.75)
"""Moments whose FLOPs controls from scratch get, too."""
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
    """For every seed: controls, four moments of growth, ways to grow at half time, cosine; then deepening."""
    bench = _bench(setting, 0)
    base, total = _base(bench), bench.total
    full = 64.0 * training_flops(base, 1)
    found = []
    for seed in setting.seeds:
        for change in CHANGES:
            small = 64.0 * training_flops(CHANGES[change].small(base), 1)
            costs = {
                "scratch": 1.6 * total * full,
                "small": 2.0 * total * small,
                **{k: m * total * small + (1 - m + DECAY) * total * full for k, m in MOMENTS.items()},
                "ways": 0.5 * total * (small + 4 * full),
                "cosine": 0.5 * total * small + 2.25 * total * full,
            }
            for kind, cost in costs.items():
                if change == "widen" or kind not in {"ways", "cosine"}:
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
    """The base network with all updates and with the FLOPs of late growth; what decays branches off one stable run."""
    base, total = _base(bench), bench.total
    equal = {moment: equal_steps(base, change, moment, total)["base"] for moment in LATE}
    branch = bench.begin(base)
    for moment, steps in sorted(equal.items(), key=lambda entry: entry[1]):
        branch.train(_decay_from(steps), constant(), total=total)
        _finish(branch, "stable, decay", steps, runs, arm="base", budget=moment)
    branch.train(_decay_from(total), constant(), total=total)
    _finish(branch, "stable, decay", total, runs, arm="base", budget=None)
    _finish(branch, "constant", total, runs, arm="base", budget=None)


def _small(bench: Bench, change: str, runs: list[Row]) -> None:
    """The small network as it is, with all updates, and trained longer for the FLOPs of growth at half time."""
    base, total = _base(bench), bench.total
    branch = bench.begin(CHANGES[change].small(base)).train(_decay_from(total), constant(), total=total)
    _finish(branch, "stable, decay", total, runs, arm="small", budget=None)
    _finish(branch, "constant", total, runs, arm="small", budget=None)
    longer = equal_steps(base, change, 0.5, total)["small"]
    branch.train(_decay_from(longer), constant(), total=longer)
    _finish(branch, "stable, decay", longer, runs, arm="small", budget=0.5)


def _grown(bench: Bench, change: str, runs: list[Row], *, moment: float) -> None:
    """Grow by blocks with fresh moments; go on at the constant rate, and once let it fall."""
    total = bench.total
    branch = bench.begin(CHANGES[change].small(_base(bench)))
    branch.train(round(moment * total), constant(), total=total).grow(CHANGES[change].transform)
    branch.train(_decay_from(total), constant(), total=total)
    for schedule in ("stable, decay", "constant"):
        _finish(branch, schedule, total, runs, arm="grown", way="blocks", moment=moment)


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
    "small": _small,
    **{name: partial(_grown, moment=moment) for name, moment in MOMENTS.items()},
    "ways": _ways,
    "cosine": _cosine,
}
"""What a cell trains, by name."""


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
