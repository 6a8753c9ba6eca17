"""Regularized evolution: the oldest members die, however good they are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import ConfigError
from graftwork.evolution.selection._selector import Candidates, Selector, best_first
from graftwork.evolution.selection._tournament import check_tournament_size, hold_tournaments


@dataclass(frozen=True, kw_only=True)
class AgeSelector(Selector):
    """Retire the oldest members, then choose survivors among the others by tournament (Real et al. 2019).

    Rows stand in order of birth, so the oldest come first. ``num_retired`` members retire, or fewer where less than K
    would be left. A good member lives on only through its children, so no lucky score can dominate the population for
    good. But the best member may be lost, so the caller has to remember it.

    Args:
        num_retired: Number of members that die of age each generation, at least 0 (which is ``tournament``).
        size: Number of entrants in each tournament, at least 1.

    Raises:
        ConfigError: If ``num_retired`` is below 0 or ``size`` below 1.
    """

    num_retired: int = 1
    size: int = 3

    def __post_init__(self) -> None:
        check_tournament_size(self.size)
        if self.num_retired < 0:
            raise ConfigError(f"num_retired: expected a number >= 0, got {self.num_retired!r}")

    def choose(self, given: Candidates, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose among the members that do not retire."""
        ranking = best_first(given.scores)
        num_retired = min(self.num_retired, len(ranking) - given.count)
        return hold_tournaments(ranking[ranking >= num_retired], given.count, size=self.size, rng=rng)
