"""Checks that the metrics share."""

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import InputError


def check_correct(correct: NDArray[np.bool_], *, min_members: int = 1) -> None:
    """Raise InputError unless bool [member, example] with enough members and at least one example."""
    if correct.ndim != 2 or correct.dtype != np.bool_ or len(correct) < min_members or correct.shape[1] == 0:
        raise InputError(
            f"correct: expected bool [member, example] with at least {min_members} member(s) and one example, "
            f"got {correct.dtype} {list(correct.shape)}"
        )


def check_predictions(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
    """Raise InputError unless integers [..., example] and [example], with at least one example."""
    both_whole = all(np.issubdtype(array.dtype, np.integer) for array in (predicted, labels))
    if not both_whole or labels.ndim != 1 or len(labels) == 0 or predicted.shape[-1:] != labels.shape:
        raise InputError(
            "predicted and labels: expected integers for the same examples, at least one, "
            f"got {predicted.dtype} {list(predicted.shape)} and {labels.dtype} {list(labels.shape)}"
        )


def check_probabilities(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> None:
    """Raise InputError unless [example, class] with rows that sum to 1, and labels that name its columns."""
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or len(labels) == 0:
        raise InputError(
            "probabilities and labels: expected [example, class] and [example] for the same examples, at least one, "
            f"got {list(probabilities.shape)} and {list(labels.shape)}"
        )
    num_classes = probabilities.shape[1]
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(f"labels: expected classes in 0 … {num_classes - 1}, got {labels.min()} to {labels.max()}")
    sums = probabilities.sum(axis=1, dtype=np.float64)
    if not ((probabilities >= 0).all() and np.allclose(sums, 1, atol=1e-3)):
        row = int(np.argmax(~(np.abs(sums - 1) <= 1e-3) | (probabilities < 0).any(axis=1)))
        raise InputError(f"probabilities: expected rows that sum to 1, got {probabilities[row]!r} in row {row}")
