"""Where every index of a dimension goes when volumes grow.

A growth adds units at the end of some volumes. For every dimension that holds such a volume, a `Layout` says
which new index holds which old one, which indices are twins of each other, and the sign that a consumer of
twins carries. Offsets after concatenation, flattening and splitting follow from the dimension's expression.
"""

# Worked example 1, a flatten of 64 channels × 49 pixels (3136 columns of a linear map) when the 64 channels become 66:
#
#   expression of the columns    C · P          C: 64 → 66 units (r2r: one pair of twins), P: 49 pixels
#   layout of C                  old     0 … 63  −1  −1
#                                source  0 … 63  64  64        (one random row for both twins)
#                                factor  1 …  1   1  −1        (heard with opposite signs)
#   layout of C · P, 3234 long   old     c · 49 + p for old channels, −1 for the last 2 · 49 columns
#                                source  64 · 49 + p for pixel p of both new channels: one random column a pixel,
#                                        heard with 1 from the first twin and with −1 from the second
#
# Worked example 2, 12 heads × 64 of a query projection (768 rows) when the 12 heads become 14:
#
#   expression of the rows       H · D          the view [B, T, 12, 64] has split 768 rows in 12 · 64
#   layout of H · D, 896 long    old     0 … 767, then −1: new heads stand at the end, whole
#
# Had D grown instead (64 → 66), every head would get its two new rows at its own end:
#
#   old     0 … 63 −1 −1 | 64 … 127 −1 −1 | …                   (12 × 66 rows)

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from graftwork.surgery._space import Expr, Var, resolve

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]


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

    @property
    def places(self) -> Ints:
        """The new index of every old one; [size]."""
        spots = np.flatnonzero(self.old >= 0)
        return np.asarray(spots[np.argsort(self.old[spots], kind="stable")])

    def unweighted(self) -> "Layout":
        """Return the same layout for a dimension that makes channels and does not sum over them."""
        return replace(self, factor=np.ones(self.new_size))


UnitMap: TypeAlias = Layout
"""The layout of one volume."""


def same_units(size: int) -> UnitMap:
    """Return the layout of a dimension that stays as it is."""
    index = np.arange(size)
    return Layout(index, index, np.ones(size), size, size)


def free_units(size: int, added: int) -> UnitMap:
    """Return the layout of a volume that gains units at its end, each with weights of its own."""
    old = np.concatenate([np.arange(size), np.full(added, -1)])
    total = size + added
    return Layout(old, np.arange(total), np.ones(total), total, size)


def layout_of(expr: Expr, growth: Mapping[Var, UnitMap]) -> Layout:
    """Return the layout of a dimension when some of its volumes grow.

    Args:
        expr: The dimension.
        growth: Volume → its layout; volumes that are left out stay.
    """
    segments = []
    for segment in resolve(expr):
        layout = same_units(1)
        for var in segment:
            layout = _product(layout, _volume(var, growth))
        segments.append(layout)
    return _concatenation(segments)


def _volume(var: Var, growth: Mapping[Var, UnitMap]) -> Layout:
    if var.bound is not None:
        return layout_of(var.bound, growth)
    return growth.get(var) or same_units(var.size)


def _product(outer: Layout, inner: Layout) -> Layout:
    if outer.new_size == 1 and not outer.grows:
        return inner
    if inner.new_size == 1 and not inner.grows:
        return outer
    old = outer.old[:, None] * inner.size + inner.old[None, :]
    old = np.where(outer.new[:, None] | inner.new[None, :], -1, old)
    source = outer.source[:, None] * inner.reduced + inner.source[None, :]
    return Layout(
        old.ravel(),
        source.ravel(),
        np.outer(outer.factor, inner.factor).ravel(),
        outer.reduced * inner.reduced,
        outer.size * inner.size,
    )


def _concatenation(segments: list[Layout]) -> Layout:
    if len(segments) == 1:
        return segments[0]
    size = reduced = 0
    olds, sources = [], []
    for segment in segments:
        olds.append(np.where(segment.new, -1, segment.old + size))
        sources.append(segment.source + reduced)
        size, reduced = size + segment.size, reduced + segment.reduced
    return Layout(
        np.concatenate(olds),
        np.concatenate(sources),
        np.concatenate([segment.factor for segment in segments]),
        reduced,
        size,
    )
