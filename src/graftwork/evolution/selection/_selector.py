"""What a selector is, and the checks that all of them share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import InputError


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a selector chooses from, checked.

    Args:
        correct: Whether each member classifies each validation example correctly, bool [member, example].
        costs: Cost of each member, float64 [member]; finite.
        count: Number of rows to choose: min(K, num_members).
    """

    correct: NDArray[np.bool_]
    costs: NDArray[np.float64]
    count: int


class Selector(ABC):
    """Choice of survivors from what each member classifies correctly, and from what each costs.

    A selector is a pure function of its arrays: it keeps no state, changes no argument, and draws only from the
    generator that it is given. Rows stand in order of member id, which is the order of birth. Of equal scores, the
    lower row wins. A search calls `select`; a new selector implements `choose`.
    """

    @final
    def select(
        self,
        correct: NDArray[np.bool_],
        costs: NDArray[np.float64],
        num_survivors: int,
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Choose survivors.

        Args:
            correct: Whether each member classifies each validation example correctly, bool [member, example].
            costs: FLOPs, parameters or any other cost of each member, float64 [member]; finite.
            num_survivors: K, number of members to choose, at least 1.
            rng: Source of all randomness.

        Returns:
            int64 [min(K, num_members)]: distinct rows, in order of choice.

        Raises:
            InputError: If an array is of the wrong type or shape, there are no examples, a cost isn't finite, or K < 1.
        """
        return self.choose(_checked(correct, costs, num_survivors), rng)

    @abstractmethod
    def choose(self, given: Candidates, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose distinct rows, int64 [given.count], in order of choice: what a selector implements."""


def _checked(correct: NDArray[np.bool_], costs: NDArray[np.float64], num_survivors: int) -> Candidates:
    """Check the arguments of ``Selector.select``; raises InputError as that says."""
    if correct.ndim != 2 or correct.dtype != np.bool_ or correct.shape[1] == 0:
        raise InputError(
            "correct: expected bool [member, example] with at least one example, "
            f"got {correct.dtype} {list(correct.shape)}"
        )
    if costs.shape != correct.shape[:1]:
        raise InputError(
            f"costs: expected one number for each member, shape [{len(correct)}], got shape {list(costs.shape)}"
        )
    if not np.isfinite(costs).all():
        row = int(np.flatnonzero(~np.isfinite(costs))[0])
        raise InputError(f"costs: expected finite numbers, got {costs[row]!r} in row {row}")
    if num_survivors < 1:
        raise InputError(f"num_survivors: expected a number >= 1, got {num_survivors!r}")
    return Candidates(correct, costs, min(num_survivors, len(correct)))


def best_first(correct: NDArray[np.bool_]) -> NDArray[np.int64]:
    """All rows by the number of correct examples, int64 [member]: best first, equals by row."""
    counts = np.count_nonzero(correct, axis=1)
    return np.argsort(-counts, kind="stable").astype(np.int64)
