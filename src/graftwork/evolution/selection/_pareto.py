"""Survivors that are a family: each the most accurate at its cost."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.evolution.selection._selector import Candidates, Selector


@dataclass(frozen=True, kw_only=True)
class ParetoSelector(Selector):
    """Choose the front of accuracy against cost, then the front of the rest, and so on (NSGA-II, Deb et al. 2002).

    The order within a front is that of thinning, reversed. Thinning repeatedly takes out the member whose neighbors
    stand closest to it (in accuracy and cost, scaled to the width of the front), until only the two ends are left: of
    these, the most accurate is chosen before the cheapest. Thinning one at a time spreads the survivors better than a
    single pass of crowding distances. Of members with equal accuracy and cost, the first stands in the front, and each
    further one in a later front.
    """

    def choose(self, given: Candidates, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose rows that trade accuracy for cost."""
        chosen: list[int] = []
        for front in non_dominated_fronts(given.scores, given.costs):
            if len(chosen) < given.count:
                chosen += _least_crowded_first(front, given.scores, given.costs)
        return np.array(chosen[: given.count], dtype=np.int64)


def non_dominated_fronts(scores: NDArray[np.float64], costs: NDArray[np.float64]) -> list[list[int]]:
    """Sort members into fronts: no member is dominated by another one of its front or of a later one.

    Args:
        scores: How good each member is, float64 [member]; more is better.
        costs: Cost of each member, float64 [member]; less is better.

    Returns:
        The fronts, best first; each lists its rows by falling accuracy, and so by falling cost.
    """
    # By falling accuracy, then rising cost, then row: a row is dominated only by rows before it.
    remaining = np.lexsort((costs, -scores)).tolist()
    fronts: list[list[int]] = []
    while remaining:
        front: list[int] = []
        dominated: list[int] = []
        for row in remaining:
            is_cheapest_yet = not front or costs[row] < costs[front[-1]]
            (front if is_cheapest_yet else dominated).append(row)
        fronts.append(front)
        remaining = dominated
    return fronts


def _least_crowded_first(front: list[int], scores: NDArray[np.float64], costs: NDArray[np.float64]) -> list[int]:
    """Put the rows of a front, which are sorted by falling accuracy, into the order in which to choose them."""
    score_range = float(scores[front[0]] - scores[front[-1]]) or 1.0
    cost_range = float(costs[front[0]] - costs[front[-1]]) or 1.0
    kept = list(front)
    thinned: list[int] = []
    while len(kept) > 2:
        gaps = [
            (scores[left] - scores[right]) / score_range + (costs[left] - costs[right]) / cost_range
            for left, right in zip(kept, kept[2:], strict=False)
        ]
        thinned.append(kept.pop(1 + int(np.argmin(gaps))))
    return kept + thinned[::-1]
