"""What the envelope's experiment runs: sizes, growths, and a screen and claims made of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiments.growing._envelope_trunks import Lineage, Size

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


def run_of(options: Mapping[str, Any]) -> Run:
    """The run of a cell's options."""
    kept = {key: value for key, value in options.items() if key not in {"budget", "seed"}}
    sizes = tuple(Size(**size) for size in kept["sizes"])
    return Run(**{**kept, "sizes": sizes, "at": tuple(kept.get("at", ()))})


def sizes_of(text: str) -> tuple[Size, ...]:
    """``"w64d1 w64d2"`` → the sizes."""
    pairs = (word[1:].split("d") for word in text.split())
    return tuple(Size(int(width), int(depth)) for width, depth in pairs)


GROWTHS: Mapping[str, tuple[Size, ...]] = {
    "1→2, narrow": sizes_of("w48d1 w48d2"),
    "2→3, narrow": sizes_of("w48d2 w48d3"),
    "2→4, narrow": sizes_of("w48d2 w48d4"),
    "1→2→3, narrow": sizes_of("w48d1 w48d2 w48d3"),
    "1→2": sizes_of("w64d1 w64d2"),
    "2→3": sizes_of("w64d2 w64d3"),
    "2→4": sizes_of("w64d2 w64d4"),
    "1→2→4": sizes_of("w64d1 w64d2 w64d4"),
    "width": sizes_of("w64d1 w96d1"),
    "width and depth": sizes_of("w64d2 w96d3"),
}


def _screen() -> Iterator[tuple[Run, float]]:
    """24 cells: at 1.6 TFLOP how to grow, at 3.2 what and when, first at the width of the pilots.

    The narrowest width turned out the best at 1.6 TFLOP, so sizes and growths of it took the place of four cells of
    3.2 TFLOP that were still to run: w64d2 at two other rates, w64d4 and w96d1.
    """
    for sizes, rates in (("w64d1", RATES), ("w64d2", (1.0,)), ("w48d2", (1.0,)), ("w96d1", (1.0,))):
        for rate in rates:
            yield Run(sizes_of(sizes), rate), 1.6
    doubled = GROWTHS["1→2"]
    yield Run(doubled, share=0.5), 1.6
    for init, rewarmed in (("zero-out", True), ("zero-out", False), ("r2r", True), ("copy", False)):
        yield Run(doubled, share=0.3, init=init, rewarmed=rewarmed), 1.6
    yield Run(GROWTHS["1→2, narrow"], share=0.3), 1.6
    for sizes in ("w48d2", "w48d3", "w64d2", "w64d3"):
        yield Run(sizes_of(sizes)), 3.2
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
    "w48d1": _powers(0.05, 6.4),
    "w48d2": _powers(0.05, 6.4),
    "w48d3": _powers(0.05, 6.4),
    "w48d4": _powers(0.05, 12.8),
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


@dataclass(frozen=True)
class Family:
    """Sizes that one growing trunk leaves, each finished on a branch of its own.

    Args:
        title: How far the budgets of its members lie apart.
        first: Size from which it grows, and its TFLOP.
        grown: Growth into each other member → its budget over that of the largest.
    """

    title: str
    first: tuple[str, float]
    grown: Mapping[str, float]

    def members(self, largest: float) -> tuple[tuple[Run, float], ...]:
        """Runs and TFLOP, where the largest member has these TFLOP."""
        grown = ((member(name), share * largest) for name, share in self.grown.items())
        return ((member(self.first[0]), self.first[1]), *grown)


FAMILIES = (
    Family("2 and 2.5 times", ("w48d1", 1.28), {"1→2, narrow": 0.5, "1→2→3, narrow": 1.0}),
    Family("4 times", ("w48d2", 1.6), {"2→4, narrow": 1.0}),
)
"""Each member is grown at 0.3 of its budget."""
LARGEST = (6.4, 7.2, 8.0)
"""TFLOP of a family's largest member: as many as from scratch, an eighth more, a quarter more."""
ANYTIME = (
    Run(sizes_of("w48d1 w48d2 w48d3"), at=(0.36, 1.44)),
    Run(sizes_of("w32d1 w48d1 w48d2 w48d3"), at=(0.12, 0.36, 1.44)),
)
"""One trunk that is stopped at any time; the second one begins narrower."""
MOMENTS = _powers(0.1, 6.4)
"""TFLOP at which a trunk is stopped."""
SUNK: Mapping[Run, tuple[float, ...]] = {
    Run(sizes_of("w48d1 w48d2"), at=(0.48,)): (0.5, 1, 2, 4, 8),
    Run(sizes_of("w48d2 w48d3"), at=(0.96,)): (0.5, 1, 2, 4),
}
"""A network that is there and grows → FLOPs that are spent from then on, over what it has cost."""


def claims() -> Iterator[tuple[Run, float]]:
    """From scratch and grown at a rate of 1, one trunk for several budgets, and the other rates where it matters."""
    for name, budgets in SCRATCH.items():
        yield from ((Run(sizes_of(name)), budget) for budget in budgets)
    for name, (shares, budgets) in GROWN.items():
        yield from ((Run(GROWTHS[name], share=share), budget) for share in shares for budget in budgets)
    yield from ((run, budget) for run in ANYTIME for budget in MOMENTS)
    for run, ratios in SUNK.items():
        yield from ((run, run.at[-1] * (1 + ratio)) for ratio in ratios)
    for family in FAMILIES:
        for largest in LARGEST:
            yield from family.members(largest)
    for name, budgets in TUNED.items():
        for rate in RATES:
            yield from ((replace(member(name), rate=rate), budget) for budget in budgets)


def member(name: str) -> Run:
    """A size, or a growth at 0.3 of the budget."""
    return Run(GROWTHS[name], share=0.3) if name in GROWTHS else Run(sizes_of(name))
