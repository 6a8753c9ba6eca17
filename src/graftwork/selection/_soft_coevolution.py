"""Co-evolution on probabilities instead of on right and wrong."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.selection._coevolution import CoevolutionSelector, check_power
from graftwork.selection._selector import Candidates, SoftSelector

__all__ = ["SoftCoevolutionSelector"]


@dataclass(frozen=True, kw_only=True)
class SoftCoevolutionSelector(SoftSelector):
    """Co-evolution whose ``correct`` and ``hits`` are sums of P(true label).

    An example that two members get right with probability 0.51 each is covered less than one that they are sure
    of, and a member that nearly gets an uncovered example right earns something for it. It reads probabilities
    through ``select_soft`` (see ``SoftSelector``); ``select`` is co-evolution itself, with which ``select_soft``
    agrees on probabilities of 0 and 1.

    Args:
        power: p of the formula, from 0 to 64.

    Raises:
        ConfigError: ``power`` outside its range.
    """

    power: float = 2

    def __post_init__(self) -> None:
        check_power(self.power)

    def choose(self, given: Candidates, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose by right and wrong alone."""
        return CoevolutionSelector(power=self.power).choose(given, rng)

    def choose_soft(
        self, probabilities: NDArray[np.float64], given: Candidates, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Choose by P(true label).

        Sums over examples are correctly rounded (``math.fsum``), so the order of examples doesn't matter.
        """
        soft_hits = np.zeros(probabilities.shape[1])
        remaining = list(range(len(probabilities)))
        chosen: list[int] = []
        for _ in range(given.count):
            weights = (1 + soft_hits) ** -self.power
            best = max(remaining, key=lambda row: math.fsum(probabilities[row] * weights))
            remaining.remove(best)
            chosen.append(best)
            soft_hits += probabilities[best]
        return np.array(chosen, dtype=np.int64)
