"""Survivors by accuracy alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.selection._selector import best_first, num_chosen

__all__ = ["GreedySelector"]


@dataclass(frozen=True, kw_only=True)
class GreedySelector:
    """The best remaining member, K times, which is a sort (report, algorithm 2)."""

    def select(
        self,
        correct: NDArray[np.bool_],
        costs: NDArray[np.float64],
        num_survivors: int,
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Choose the most accurate rows; see ``Selector.select``."""
        count = num_chosen(correct, costs, num_survivors)
        return best_first(correct)[:count]
