"""What a selector is, and the checks that all of them share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import InputError
from graftwork.metrics import balanced_accuracies


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a selector chooses from, checked.

    Args:
        correct: Whether each member classifies each validation example correctly, bool [member, example].
        costs: Cost of each member, float64 [member]; finite.
        count: Number of rows to choose: min(K, num_members).
        scores: How good each member is, float64 [member]; more is better. Without another measure the number of correct
            examples, or, where classes count the same, the mean share over them.
        classes: Class of each example, int64 [example], where every class counts the same; ``None``: every example
            does.
    """

    correct: NDArray[np.bool_]
    costs: NDArray[np.float64]
    count: int
    scores: NDArray[np.float64]
    classes: NDArray[np.int64] | None = None


class Selector(ABC):
    """Choice of survivors from what each member classifies correctly, and from what each costs.

    A selector is a pure function of its arrays: it keeps no state, changes no argument, and draws only from the
    generator that it is given. Rows stand in order of member id, which is the order of birth. Of equal scores, the
    lower row wins. A search calls `select`; a new selector implements `choose`.

    Attributes:
        takes_scores: Whether it can choose by another measure than correct examples.
    """

    takes_scores: ClassVar[bool] = True

    @final
    def select(
        self,
        correct: NDArray[np.bool_],
        costs: NDArray[np.float64],
        num_survivors: int,
        rng: np.random.Generator,
        *,
        classes: NDArray[np.int64] | None = None,
        scores: NDArray[np.float64] | None = None,
    ) -> NDArray[np.int64]:
        """Choose survivors.

        Args:
            correct: Whether each member classifies each validation example correctly, bool [member, example].
            costs: FLOPs, parameters or any other cost of each member, float64 [member]; finite.
            num_survivors: K, number of members to choose, at least 1.
            rng: Source of all randomness.
            classes: Class of each example, int64 [example], to count every class the same; ``None``: every example
                counts the same.
            scores: Another measure of each member, float64 [member], more is better; ``None``: correct examples.

        Returns:
            int64 [min(K, num_members)]: distinct rows, in order of choice.

        Raises:
            InputError: If an array is of the wrong type or shape, there are no examples, a cost or score isn't finite,
                K < 1, or this selector takes no scores.
        """
        if scores is not None and not self.takes_scores:
            raise InputError(
                f"selection: expected correct examples for {type(self).__name__}, which looks at each of them, got "
                "scores of whole members; take greedy or pareto"
            )
        return self.choose(_checked(correct, costs, num_survivors, classes, scores), rng)

    @abstractmethod
    def choose(self, given: Candidates, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose distinct rows, int64 [given.count], in order of choice: what a selector implements."""


def _checked(
    correct: NDArray[np.bool_],
    costs: NDArray[np.float64],
    num_survivors: int,
    classes: NDArray[np.int64] | None,
    scores: NDArray[np.float64] | None,
) -> Candidates:
    """Check the arguments of ``Selector.select``; raises InputError as that says."""
    if correct.ndim != 2 or correct.dtype != np.bool_ or correct.shape[1] == 0:
        raise InputError(
            "correct: expected bool [member, example] with at least one example, "
            f"got {correct.dtype} {list(correct.shape)}"
        )
    if scores is None:
        scores = np.count_nonzero(correct, axis=1) if classes is None else balanced_accuracies(correct, classes)
    for name, numbers in (("costs", costs), ("scores", scores)):
        if numbers.shape != correct.shape[:1]:
            raise InputError(
                f"{name}: expected one number for each member, shape [{len(correct)}], got shape {list(numbers.shape)}"
            )
        if not np.isfinite(numbers).all():
            row = int(np.flatnonzero(~np.isfinite(numbers))[0])
            raise InputError(f"{name}: expected finite numbers, got {float(numbers[row])!r} in row {row}")
    if num_survivors < 1:
        raise InputError(f"num_survivors: expected a number >= 1, got {num_survivors!r}")
    return Candidates(correct, costs, min(num_survivors, len(correct)), scores.astype(np.float64), classes)


def best_first(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """All rows by their scores [member], int64 [member]: best first, equals by row."""
    return np.argsort(-scores, kind="stable").astype(np.int64)
