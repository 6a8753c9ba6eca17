"""Survivors by accuracy alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.selection._selector import BoundedSelector, Candidates, best_first

__all__ = ["GreedySelector"]


@dataclass(frozen=True, kw_only=True)
class GreedySelector(BoundedSelector):
    """The best remaining member, K times, which is a sort (report, algorithm 2)."""

    def choose(self, given: Candidates, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose the most accurate rows."""
        return best_first(given.correct)[: given.count]

    def rule_out(self, fewest: NDArray[np.int64], most: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
        """Rule out whoever comes after ``count`` others even if all that it was not asked is right.

        Rows stand in the order (most right first, equals by row), which is total. The bar is the ``count``-th row by
        what is known already. It can only rise, so who is below it with all that it could still get right stays below.
        """
        if count == 0:
            return np.zeros(0, dtype=np.bool_)
        bar = int(np.argsort(-fewest, kind="stable")[count - 1])
        below = (most < fewest[bar]) | ((most == fewest[bar]) & (np.arange(len(most)) > bar))
        return np.asarray(below, dtype=np.bool_)
