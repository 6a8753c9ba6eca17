"""Survivors by accuracy alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.evolution.selection._selector import Candidates, Selector, best_first


@dataclass(frozen=True, kw_only=True)
class GreedySelector(Selector):
    """Choose the best remaining member K times, which is a sort (report, algorithm 2)."""

    def choose(self, given: Candidates, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose the most accurate rows."""
        return best_first(given.scores)[: given.count]
