"""Survivors that are better together: examples that are already covered count for less."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import ConfigError
from graftwork.evolution.selection._selector import Candidates, Selector
from graftwork.metrics import class_shares

MAX_POWER = 64.0
"""Above this power, weights no longer differ from "uncovered examples first" at any realistic size."""


def _weights(power: float, num_hits: int) -> list[int] | list[float]:
    """Return (1 + hits)^-power for hits = 0 … num_hits - 1, up to one common factor.

    A whole power gives whole numbers, scaled by lcm(1, …, num_hits)^power, so that scores are exact and equal
    scores are found equal.
    """
    if float(power).is_integer():
        scale = math.lcm(*range(1, num_hits + 1))
        return [(scale // (1 + hits)) ** int(power) for hits in range(num_hits)]
    return [(1 + hits) ** -power for hits in range(num_hits)]


@dataclass(frozen=True, kw_only=True)
class CoevolutionSelector(Selector):
    """Choose the best member, then repeatedly the one that adds most (report, algorithm 5).

    The next choice maximizes the mean over examples of ``correct · (1 + hits)^-power``, where ``hits`` counts the
    chosen members that get the example right. With ``power=0`` this is greedy; the larger the power, the less examples
    count that are covered already.

    Scores are computed from the number of correct examples at each count of hits, class by class where every class
    counts the same. So they don't depend on the order of examples, and for whole powers they are exact integers. Of
    equal scores, the lower row wins.

    Args:
        power: Exponent of the formula, from 0 to 64.

    Raises:
        ConfigError: If ``power`` is out of its range.
    """

    takes_scores: ClassVar[bool] = False

    power: float = 2

    def __post_init__(self) -> None:
        if not 0 <= self.power <= MAX_POWER:
            raise ConfigError(f"power: expected a number from 0 (greedy) to {MAX_POWER:g}, got {self.power!r}")

    def choose(self, given: Candidates, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose rows that complement each other."""
        correct, count = given.correct, given.count
        weights = _weights(self.power, count)
        classes = np.zeros(correct.shape[1], dtype=np.int64) if given.classes is None else given.classes
        shares = [1] if given.classes is None else class_shares(classes)
        factors = [share * weight for share in shares for weight in weights]
        places = classes * len(weights)  # of the factor of each example, which moves on by its hits
        remaining = list(range(len(correct)))
        chosen: list[int] = []
        for _ in range(count):
            best = max(remaining, key=lambda row: _score(places[correct[row]], factors))
            remaining.remove(best)
            chosen.append(best)
            places += correct[best]
        return np.array(chosen, dtype=np.int64)


def _score(places: NDArray[np.int64], factors: list[int] | list[float]) -> float:
    """Return the sum of the factors at the places int64 [num_correct] of a member's correct examples."""
    counts = np.bincount(places, minlength=len(factors)).tolist()
    terms = [number * factor for number, factor in zip(counts, factors, strict=True) if number]
    return sum(terms) if all(isinstance(term, int) for term in terms) else math.fsum(terms)
