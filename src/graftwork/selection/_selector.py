"""What a selector is, and the checks that all of them share."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import InputError

__all__ = ["Selector", "SoftSelector", "best_first", "num_chosen"]


@runtime_checkable
class Selector(Protocol):
    """Chooses survivors from what each member classifies correctly, and from what each costs.

    A selector is a pure function of its arrays: it keeps no state, changes no argument, and draws only from the
    generator that it is given. Rows stand in order of member id, which is the order of birth. Equal scores go to
    the lower row.
    """

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
        ...


@runtime_checkable
class SoftSelector(Selector, Protocol):
    """A selector that can also read probabilities, where a boolean would throw away how sure a member was.

    The caller that has probabilities asks ``isinstance(selector, SoftSelector)`` and calls ``select_soft``;
    on probabilities that are all 0 or 1 the two methods agree.
    """

    def select_soft(
        self,
        probabilities: NDArray[np.float64],
        costs: NDArray[np.float64],
        num_survivors: int,
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Choose survivors as ``select`` does, from float64 [member, example]: P(true label), in [0, 1]."""
        ...


def num_chosen(correct: NDArray[np.bool_], costs: NDArray[np.float64], num_survivors: int) -> int:
    """Check the arguments of ``Selector.select``.

    Returns:
        min(num_survivors, num_members): how many rows the selector has to return.

    Raises:
        InputError: as ``Selector.select`` says.
    """
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
    return min(num_survivors, len(correct))


def best_first(correct: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return int64 [member]: all rows by the number of correct examples, best first, equals by row."""
    counts = np.count_nonzero(correct, axis=1)
    return np.argsort(-counts, kind="stable").astype(np.int64)
