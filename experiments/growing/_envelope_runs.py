"""Growth against the strict envelope: the best size and rate from scratch at every budget, byte GPTs under Muon."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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

WIDTHS, DEPTHS, RATES = (48, 64, 96), (1, 2, 3, 4, 6), (0.5, 1.0, 2.0)
TERA = 1e12
BUDGETS = (0.8, 1.6, 3.2, 6.4, 12.8, 25.6)
"""TFLOP of a whole run, at scale 1."""
LARGE = 20.0
"""TFLOP above which runs read the larger corpus, for the smaller one would be read several times."""
SHARES = (0.15, 0.3, 0.5)
DECAY = 0.25
"""Share of the budget at the end in which the rate falls to zero."""
TOKENS_PER_PARAMETER = (6.0, 80.0)
"""Sizes outside of this are no candidates for the envelope of claims."""


@dataclass(frozen=True)
class Run:
    """One way to spend a budget.

    Args:
        sizes: The size, or those that it grows through.
        rate: Factor on both rates.
        share: Share of the budget before the last growth; growths before it are at equal distances.
        init: How new layers start: ``"zero-out"``, ``"r2r"`` or ``"copy"``.
        rewarmed: Whether what is new begins without moments and warms up.
    """

    sizes: tuple[Size, ...]
    rate: float = 1.0
    share: float = 0.0
    init: str = "zero-out"
    rewarmed: bool = True

    def __str__(self) -> str:
        text = f"{'-'.join(map(str, self.sizes))}-x{self.rate:g}"
        if len(self.sizes) == 1:
            return text
        return f"{text}-f{self.share:g}-{self.init}-{'rewarmed' if self.rewarmed else 'carried'}"

    def lineage(self, seed: int, budget: float, *, large: bool) -> Lineage:
        """What trains until the rate falls, for a budget in FLOPs."""
        growths = len(self.sizes) - 1
        moments = tuple(self.share * budget * (number + 1) / growths for number in range(growths))
        return Lineage(seed, self.rate, large, self.sizes, moments, self.init, self.rewarmed)


def _sizes(text: str) -> tuple[Size, ...]:
    """``"w64d1 w64d2"`` → the sizes."""
    pairs = (word[1:].split("d") for word in text.split())
    return tuple(Size(int(width), int(depth)) for width, depth in pairs)


GROWTHS: Mapping[str, tuple[Size, ...]] = {
    "1→2, narrow": _sizes("w48d1 w48d2"),
    "2→3, narrow": _sizes("w48d2 w48d3"),
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
    for name, grown in GROWTHS.items():
        if name != "1→2, narrow":
            yield Run(grown, share=0.3), 3.2


SCREEN = tuple(_screen())
"""What seed 0 runs."""
WINNERS = tuple(Run(sizes, share=share) for sizes in GROWTHS.values() for share in SHARES)
"""Growths that the other seeds run, with every rate and budget: to be narrowed to what a screen has found."""


def _claims() -> Iterator[tuple[Run, float]]:
    """Every size that may be the best for a budget, and growths that end in one, with all rates."""
    sizes = [Size(width, depth) for width in WIDTHS for depth in DEPTHS]
    for budget in BUDGETS:
        for run in (*(Run((size,)) for size in sizes), *WINNERS):
            if _may_be_best(run.sizes[-1], budget * TERA):
                for rate in RATES:
                    yield Run(**{**vars(run), "rate": rate}), budget


@cache
def _cost(size: Size) -> tuple[float, int]:
    """FLOPs of an update, parameters."""
    learner = begin(Lineage(0, 1.0, False, (size,)), Setting("", (0,), 1.0))
    return learner.step_flops, sum(p.numel() for p in learner.model.parameters())


def _may_be_best(size: Size, budget: float) -> bool:
    flops, parameters = _cost(size)
    least, most = TOKENS_PER_PARAMETER
    return least <= budget / flops * BATCH_SIZE * CONTEXT / parameters <= most


def cells(setting: Setting) -> list[Cell]:
    """The screen for seed 0, claims for all other seeds."""
    found = []
    for seed in setting.seeds:
        for run, budget in SCREEN if seed == 0 else _claims():
            options = {**asdict(run), "budget": budget, "seed": seed}
            found.append(Cell(f"{run}-{budget:g}T-s{seed}", budget * TERA * setting.scale, options))
    return found


def _read(cell: Cell) -> tuple[Run, float, Lineage]:
    """The run of a cell, its budget in FLOPs, and what it branches from."""
    options = dict(cell.options)
    budget, seed = options.pop("budget"), options.pop("seed")
    run = Run(**{**options, "sizes": tuple(Size(**size) for size in options["sizes"])})
    return run, cell.flops, run.lineage(seed, cell.flops, large=budget > LARGE)


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
    return begin(Lineage(0, 1.0, False, (Size(WIDTHS[1], DEPTHS[1]),)), setting)


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
