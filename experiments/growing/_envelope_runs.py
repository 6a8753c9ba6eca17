"""Growth against the strict envelope: the best size and rate from scratch at every budget, byte GPTs under Muon."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from time import process_time

from experiments._common import Row
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

RATES = (0.5, 1.0, 2.0)
TERA = 1e12
LARGE = 20.0
"""TFLOP above which runs read the larger corpus, for the smaller one would be read several times."""
DECAY = 0.25
"""Share of the budget at the end in which the rate falls to zero."""


@dataclass(frozen=True)
class Run:
    """One way to spend a budget.

    Args:
        sizes: The size, or those that it grows through.
        rate: Factor on both rates.
        share: Share of the budget before the last growth; growths before it are at equal distances.
        init: How new layers start: ``"zero-out"``, ``"r2r"`` or ``"copy"``.
        rewarmed: Whether what is new begins without moments and warms up.
        at: TFLOP at which it grows, one a growth, for one trunk that serves several budgets: it has not grown yet where
            the rate falls before. Empty: by ``share``.
    """

    sizes: tuple[Size, ...]
    rate: float = 1.0
    share: float = 0.0
    init: str = "zero-out"
    rewarmed: bool = True
    at: tuple[float, ...] = ()

    def __str__(self) -> str:
        text = f"{'-'.join(map(str, self.sizes))}-x{self.rate:g}"
        if len(self.sizes) == 1:
            return text
        when = f"at{'+'.join(f'{moment:g}' for moment in self.at)}" if self.at else f"f{self.share:g}"
        return f"{text}-{when}-{self.init}-{'rewarmed' if self.rewarmed else 'carried'}"

    def lineage(self, seed: int, budget: float, *, large: bool, scale: float = 1.0) -> Lineage:
        """What trains until the rate falls, for a budget in FLOPs."""
        growths = len(self.sizes) - 1
        moments = tuple(self.share * budget * (number + 1) / growths for number in range(growths))
        if self.at:
            planned = (moment * TERA * scale for moment in self.at)
            moments = tuple(moment for moment in planned if moment < (1 - DECAY) * budget)
        return Lineage(seed, self.rate, large, self.sizes[: len(moments) + 1], moments, self.init, self.rewarmed)


def _sizes(text: str) -> tuple[Size, ...]:
    """``"w64d1 w64d2"`` → the sizes."""
    pairs = (word[1:].split("d") for word in text.split())
    return tuple(Size(int(width), int(depth)) for width, depth in pairs)


GROWTHS: Mapping[str, tuple[Size, ...]] = {
    "1→2, narrow": _sizes("w48d1 w48d2"),
    "2→3, narrow": _sizes("w48d2 w48d3"),
    "2→4, narrow": _sizes("w48d2 w48d4"),
    "1→2→3, narrow": _sizes("w48d1 w48d2 w48d3"),
    "1→2": _sizes("w64d1 w64d2"),
    "2→3": _sizes("w64d2 w64d3"),
    "2→4": _sizes("w64d2 w64d4"),
    "1→2→4": _sizes("w64d1 w64d2 w64d4"),
    "width": _sizes("w64d1 w96d1"),
    "width and depth": _sizes("w64d2 w96d3"),
}


def _screen() -> Iterator[tuple[Run, float]]:
    """24 cells: at 1.6 TFLOP how to grow, at 3.2 what and when, first at the width of the pilots.

    The narrowest width turned out the best at 1.6 TFLOP, so sizes and growths of it took the place of four cells of
    3.2 TFLOP that were still to run: w64d2 at two other rates, w64d4 and w96d1.
    """
    for sizes, rates in (("w64d1", RATES), ("w64d2", (1.0,)), ("w48d2", (1.0,)), ("w96d1", (1.0,))):
        for rate in rates:
            yield Run(_sizes(sizes), rate), 1.6
    doubled = GROWTHS["1→2"]
    yield Run(doubled, share=0.5), 1.6
    for init, rewarmed in (("zero-out", True), ("zero-out", False), ("r2r", True), ("copy", False)):
        yield Run(doubled, share=0.3, init=init, rewarmed=rewarmed), 1.6
    yield Run(GROWTHS["1→2, narrow"], share=0.3), 1.6
    for sizes in ("w48d2", "w48d3", "w64d2", "w64d3"):
        yield Run(_sizes(sizes)), 3.2
    yield Run(doubled, share=0.15), 3.2
    for name in ("2→3, narrow", "1→2", "2→3", "2→4", "1→2→4", "width", "width and depth"):
        yield Run(GROWTHS[name], share=0.3), 3.2


SCREEN = tuple(_screen())
"""What seed 0 runs."""


def _powers(first: float, last: float) -> tuple[float, ...]:
    """Budgets that double."""
    found = [first]
    while found[-1] < 0.99 * last:
        found.append(2 * found[-1])
    return tuple(found)


SCRATCH: Mapping[str, tuple[float, ...]] = {
    "w32d1": _powers(0.05, 0.4),
    "w32d2": _powers(0.05, 1.6),
    "w32d3": _powers(0.4, 3.2),
    "w48d1": _powers(0.05, 3.2),
    "w48d2": _powers(0.05, 6.4),
    "w48d3": _powers(0.05, 6.4),
    "w48d4": _powers(0.2, 12.8),
    "w48d6": _powers(6.4, 25.6),
    "w64d2": _powers(1.6, 12.8),
    "w64d3": _powers(6.4, 25.6),
    "w64d4": _powers(12.8, 25.6),
    "w96d2": _powers(12.8, 25.6),
    "w96d3": _powers(25.6, 25.6),
}
"""Size → TFLOP of a run from scratch for a claim, at a rate of 1: wherever the size may be the best, and beyond."""
GROWN: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "1→2, narrow": ((0.15, 0.3), _powers(0.4, 3.2)),
    "2→3, narrow": ((0.15, 0.3), _powers(1.6, 6.4)),
    "2→4, narrow": ((0.15, 0.3), _powers(6.4, 12.8)),
    "1→2→3, narrow": ((0.3,), _powers(3.2, 6.4)),
    "2→3": ((0.15, 0.3), _powers(6.4, 12.8)),
    "2→4": ((0.15, 0.3), _powers(12.8, 25.6)),
}
"""What the screen has left: growth → shares of the budget, TFLOP."""
TUNED: Mapping[str, tuple[float, ...]] = {
    "w48d1": _powers(0.2, 0.8),
    "w48d2": _powers(0.8, 3.2),
    "w48d3": _powers(3.2, 6.4),
    "1→2, narrow": _powers(0.8, 3.2),
    "2→3, narrow": _powers(3.2, 6.4),
}
"""Where the other rates are tried: sizes that were the best at a rate of 1, and growths into them at f = 0.3."""
FAMILY = {"w48d1": 0.2, "1→2, narrow": 0.5, "1→2→3, narrow": 1.0}
"""Three members of one trunk, each grown at 0.3 of its budget: name → budget, as a share of the largest."""
FAMILY_APART = {"w48d2": 0.25, "2→4, narrow": 1.0}
"""Two members whose budgets lie four times apart."""
LARGEST = (6.4, 5.44, 4.48)
"""TFLOP of a family's largest member: what its sizes have from scratch, 15 % less, 30 % less."""
ANYTIME = Run(_sizes("w48d1 w48d2 w48d3"), at=(0.36, 1.44))
"""One trunk that is stopped at any time."""
SUNK: Mapping[Run, tuple[float, ...]] = {
    Run(_sizes("w48d1 w48d2"), at=(0.48,)): (0.5, 1, 2, 4, 8),
    Run(_sizes("w48d2 w48d3"), at=(0.96,)): (0.5, 1, 2, 4),
}
"""A network that is there and grows → FLOPs that are spent from then on, over what it has cost."""


def _claims() -> Iterator[tuple[Run, float]]:
    """From scratch and grown at a rate of 1, one trunk for several budgets, and the other rates where it matters."""
    for name, budgets in SCRATCH.items():
        yield from ((Run(_sizes(name)), budget) for budget in budgets)
    for name, (shares, budgets) in GROWN.items():
        yield from ((Run(GROWTHS[name], share=share), budget) for share in shares for budget in budgets)
    yield from ((ANYTIME, budget) for budget in _powers(0.1, 6.4))
    for run, ratios in SUNK.items():
        yield from ((run, run.at[-1] * (1 + ratio)) for ratio in ratios)
    for family in (FAMILY, FAMILY_APART):
        yield from ((member(name), part * largest) for largest in LARGEST for name, part in family.items())
    for name, budgets in TUNED.items():
        for rate in RATES:
            yield from ((replace(member(name), rate=rate), budget) for budget in budgets)


def member(name: str) -> Run:
    """A size, or a growth at 0.3 of the budget."""
    return Run(GROWTHS[name], share=0.3) if name in GROWTHS else Run(_sizes(name))


@cache
def _cost(size: Size) -> tuple[float, int]:
    """FLOPs of an update, parameters."""
    learner = begin(Lineage(0, 1.0, False, (size,)), Setting("", (0,), 1.0))
    return learner.step_flops, sum(p.numel() for p in learner.model.parameters())


def cells(setting: Setting) -> list[Cell]:
    """The screen for seed 0, claims for all other seeds."""
    found: dict[str, Cell] = {}
    for seed in setting.seeds:
        for run, budget in SCREEN if seed == 0 else _claims():
            options = {**asdict(run), "budget": budget, "seed": seed}
            name = f"{run}-{budget:g}T-s{seed}"
            found.setdefault(name, Cell(name, budget * TERA * setting.scale, options))
    return list(found.values())


def _read(cell: Cell) -> tuple[Run, float, Lineage]:
    """The run of a cell, its budget in FLOPs, and what it branches from."""
    options = dict(cell.options)
    budget, seed = options.pop("budget"), options.pop("seed")
    run = Run(**{**options, "sizes": tuple(Size(**size) for size in options["sizes"])})
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
        "first_update_flops": _cost(lineage.sizes[0])[0],
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
    return begin(Lineage(0, 1.0, False, _sizes("w64d2")), setting)


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
