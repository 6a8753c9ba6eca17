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
    the lower row. Whoever searches calls `select`; whoever writes a selector writes `choose`.
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
            num_survivors: how many to choose, K ≥ 1.
            rng: source of all randomness.

        Returns:
            int64 [min(K, num_members)]: distinct rows, in order of choice.

        Raises:
            InputError: arrays of wrong type or shape, no examples, costs that aren't finite, or K < 1.
        """
        return self.choose(_checked(correct, costs, num_survivors), rng)

    @abstractmethod
    def choose(self, given: Candidates, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return int64 [given.count]: distinct rows, in order of choice; what a selector is."""


def _checked(correct: NDArray[np.bool_], costs: NDArray[np.float64], num_survivors: int) -> Candidates:
    """Check the arguments of ``Selector.select``; raises InputError as that says."""
    if correct.ndim != 2 or correct.dtype != np.bool_ or correct.shape[1] == 0:
        msg = (
            "correct has to be bool [member, example] with at least one example, "
            f"but is {correct.dtype} {list(correct.shape)}"
        )
        raise InputError(msg)
    if costs.shape != correct.shape[:1]:
        msg = f"costs has to hold one number a member, shape [{len(correct)}], but has shape {list(costs.shape)}"
        raise InputError(msg)
    if not np.isfinite(costs).all():
        msg = f"costs have to be finite, but row {int(np.flatnonzero(~np.isfinite(costs))[0])} is not: {costs!r}"
        raise InputError(msg)
    if num_survivors < 1:
        msg = f"num_survivors has to be at least 1, but is {num_survivors!r}"
        raise InputError(msg)
    return Candidates(correct, costs, min(num_survivors, len(correct)))


def best_first(correct: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return int64 [member]: all rows by the number of correct examples, best first, equals by row."""
    counts = np.count_nonzero(correct, axis=1)
    return np.argsort(-counts, kind="stable").astype(np.int64)
