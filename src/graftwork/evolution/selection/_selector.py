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
        correct: bool [member, example]; whether the member classifies the validation example correctly.
        costs: float64 [member]; finite.
        count: How many rows to choose: min(K, num_members).
    """

    correct: NDArray[np.bool_]
    costs: NDArray[np.float64]
    count: int


class Selector(ABC):
    """Chooses survivors from what each member classifies correctly, and from what each costs.

    A selector is a pure function of its arrays: it keeps no state, changes no argument, and draws only from the
    generator that it is given. Rows stand in order of member id, which is the order of birth. Equal scores go to
    the lower row. A search calls `select`; a selector of your own defines `choose`.
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
            correct: bool [member, example]; whether the member classifies the validation example correctly.
            costs: float64 [member]; FLOPs, parameters or any other cost of each member; finite.
            num_survivors: Number of rows to choose, K ≥ 1.
            rng: Source of all randomness.

        Returns:
            int64 [min(K, num_members)]: distinct rows, in order of choice.

        Raises:
            InputError: If an array has a wrong type or shape, there are no examples, a cost is not finite, or K < 1.
        """
        return self.choose(_checked(correct, costs, num_survivors), rng)

    @abstractmethod
    def choose(self, given: Candidates, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return int64 [given.count]: distinct rows, in order of choice; what a selector is."""


def _checked(correct: NDArray[np.bool_], costs: NDArray[np.float64], num_survivors: int) -> Candidates:
    """Check the arguments of `Selector.select`."""
    if correct.ndim != 2 or correct.dtype != np.bool_ or correct.shape[1] == 0:
        raise InputError(
            "correct: expected bool [member, example] with at least one example, got "
            f"{correct.dtype} {list(correct.shape)}; compare predictions with labels"
        )
    if costs.shape != correct.shape[:1]:
        raise InputError(
            f"costs: expected one number for each member, shape [{len(correct)}], got shape {list(costs.shape)}; give "
            "every member its cost"
        )
    if not np.isfinite(costs).all():
        row = int(np.flatnonzero(~np.isfinite(costs))[0])
        raise InputError(
            f"costs: expected finite numbers, got {costs[row]} in row {row}; count the member's cost again"
        )
    if num_survivors < 1:
        raise InputError(f"num_survivors: expected an integer >= 1, got {num_survivors!r}; a search needs a survivor")
    return Candidates(correct, costs, min(num_survivors, len(correct)))


def best_first(correct: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return int64 [member]: all rows by the number of correct examples, best first, equals by row."""
    counts = np.count_nonzero(correct, axis=1)
    return np.argsort(-counts, kind="stable").astype(np.int64)
