"""Where every index of a dimension goes when volumes grow.

A growth adds units at the end of some volumes. For every dimension that holds such a volume, a `Layout` says
which new index holds which old one, which indices are twins of each other, and the sign that a consumer of
twins carries. Offsets after concatenation, flattening and splitting follow from the dimension's expression.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from graftwork.surgery._space import Expr, Var, resolve

__all__ = ["Layout", "UnitMap", "layout_of", "unit_map"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """Map of one dimension from its length before to its length after.

    Attributes:
        old: For every new index the old index that stood there, −1 for a new one; [new size].
        source: For every new index its place in the *reduced* dimension, where twins (or copies) are one;
            [new size].
        factor: What the weights of a consumer are multiplied by: −1 for the second of a pair of twins, one
            over the number of copies for copied units, 0 for free units that must not be heard yet, else 1;
            [new size].
        reduced: Length of the reduced dimension.
        size: Length before.
    """

    old: Ints
    source: Ints
    factor: Floats
    reduced: int
    size: int

    @property
    def new_size(self) -> int:
        """Length after."""
        return len(self.old)

    @property
    def grows(self) -> bool:
        """Whether the length changes."""
        return self.new_size != self.size

    @property
    def new(self) -> NDArray[np.bool_]:
        """Which of the new indices are new; [new size]."""
        return self.old < 0

    def unweighted(self) -> "Layout":
        """The same layout for a dimension that makes channels and does not sum over them."""
        return replace(self, factor=np.ones(self.new_size))


UnitMap = Layout  # the layout of one volume


def unit_map(size: int, added: int, *, pairing: str, rng: np.random.Generator) -> UnitMap:
    """Return the layout of a volume that gains ``added`` units at its end.

    Args:
        size: Units before.
        added: New units.
        pairing: ``"twins"`` (R2R: the second half of the new units repeats the first), ``"copies"`` (Net2Net:
            every new unit repeats a random old one), ``"silent"`` (NetMorph: nobody listens to new units
            yet), ``"free"``.
        rng: Source of the choice of copies.
    """
    total = size + added
    old = np.concatenate([np.arange(size), np.full(added, -1)])
    factor = np.ones(total)
    source, reduced = np.arange(total), total
    if pairing == "twins":
        half = added // 2
        source = np.concatenate([np.arange(size + half), np.arange(size, size + half)])
        factor[size + half :] = -1.0
        reduced = size + half
    elif pairing == "copies":
        # Whole rounds of all units first, so that doubling copies every unit once.
        rounds = [rng.permutation(size) for _ in range(-(-added // size))]
        source = np.concatenate([np.arange(size), np.concatenate(rounds)[:added]])
        factor = 1.0 / np.bincount(source, minlength=size)[source]
        reduced = size
    elif pairing == "silent":
        factor[size:] = 0.0
    return Layout(old, source, factor, reduced, size)


def layout_of(expr: Expr, growth: Mapping[Var, UnitMap]) -> Layout:
    """Return the layout of a dimension when some of its volumes grow."""
    parts = []
    for segment in resolve(expr):
        layout = _identity(1)
        for var in segment:
            layout = _product(layout, _volume(var, growth))
        parts.append(layout)
    return _concatenation(parts)


def _volume(var: Var, growth: Mapping[Var, UnitMap]) -> Layout:
    if var.bound is not None:
        return layout_of(var.bound, growth)
    return growth.get(var) or _identity(var.size)


def _identity(size: int) -> Layout:
    index = np.arange(size)
    return Layout(index, index, np.ones(size), size, size)


def _product(outer: Layout, inner: Layout) -> Layout:
    if outer.new_size == 1 and not outer.grows:
        return inner
    if inner.new_size == 1 and not inner.grows:
        return outer
    old = outer.old[:, None] * inner.size + inner.old[None, :]
    old = np.where((outer.old[:, None] < 0) | (inner.old[None, :] < 0), -1, old)
    source = outer.source[:, None] * inner.reduced + inner.source[None, :]
    return Layout(
        old.ravel(),
        source.ravel(),
        np.outer(outer.factor, inner.factor).ravel(),
        outer.reduced * inner.reduced,
        outer.size * inner.size,
    )


def _concatenation(parts: list[Layout]) -> Layout:
    if len(parts) == 1:
        return parts[0]
    size = reduced = 0
    olds, sources = [], []
    for part in parts:
        olds.append(np.where(part.old < 0, -1, part.old + size))
        sources.append(part.source + reduced)
        size, reduced = size + part.size, reduced + part.reduced
    return Layout(
        np.concatenate(olds),
        np.concatenate(sources),
        np.concatenate([part.factor for part in parts]),
        reduced,
        size,
    )
