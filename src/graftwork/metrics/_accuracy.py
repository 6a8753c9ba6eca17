"""Accuracy, over all and by class. Shares are quotients of two counts, so the order of examples doesn't matter."""

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import InputError
from graftwork.metrics._check import check_predictions


def accuracy(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Share of predictions that equal their labels.

    Args:
        predicted: Predicted class of each example, int64 [example].
        labels: True class of each example, int64 [example].

    Raises:
        InputError: If there are no examples, or different numbers of them.
    """
    check_predictions(predicted, labels)
    return int(np.count_nonzero(predicted == labels)) / predicted.size


def confusion_matrix(predicted: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Count examples by true and by predicted class.

    Args:
        predicted: Predicted class of each example, int64 [example].
        labels: True class of each example, int64 [example].
        num_classes: Number of classes; both arrays lie in 0 … num_classes - 1.

    Returns:
        int64 [true class, predicted class].

    Raises:
        InputError: If there are no examples, different numbers of them, or a class out of range.
    """
    check_predictions(predicted, labels)
    for name, classes in (("predicted", predicted), ("labels", labels)):
        if classes.min() < 0 or classes.max() >= num_classes:
            raise InputError(
                f"{name}: expected classes in 0 … {num_classes - 1}, got {classes.min()} to {classes.max()}"
            )
    cells = np.bincount(labels.astype(np.int64) * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def accuracy_by_class(predicted: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Accuracy on the examples of each class, float64 [class]; NaN for a class without examples.

    Arguments and errors are those of ``confusion_matrix``.
    """
    confusion = confusion_matrix(predicted, labels, num_classes)
    totals = confusion.sum(axis=1)
    shares = np.full(num_classes, np.nan)
    np.divide(confusion.diagonal(), totals, out=shares, where=totals > 0)
    return shares
