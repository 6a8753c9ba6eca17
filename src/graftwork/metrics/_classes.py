"""Classes one by one: precision, recall and F1 of each, and the means that count every class the same."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import InputError
from graftwork.metrics._check import check_predictions

Metric = Literal["accuracy", "balanced-accuracy", "macro-f1", "log-loss"]
METRICS: tuple[Metric, ...] = get_args(Metric)
"""What members can be compared by."""
OF_WHOLE_MEMBERS: tuple[Metric, ...] = ("macro-f1", "log-loss")
"""Metrics that give a member one score, and do not count the examples that it gets right."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassScores:
    """How well each class is told.

    Attributes:
        precision: Share of the examples predicted as the class that are of it, float64 [class]; 0 where there are none.
        recall: Share of the examples of the class that are predicted as it, float64 [class]; 0 where there are none.
        support: Number of examples of the class, int64 [class].
        balanced_accuracy: Mean recall of the classes that have examples.
        macro_f1: Mean F1 of the classes that have examples or predictions.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    support: NDArray[np.int64]
    balanced_accuracy: float
    macro_f1: float


def class_scores(predicted: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> ClassScores:
    """Score each class, by scikit-learn.

    Args:
        predicted: Predicted class of each example, int64 [example].
        labels: True class of each example, int64 [example].
        num_classes: Number of classes.

    Raises:
        InputError: If there are no examples, or different numbers of them.
    """
    from sklearn.metrics import precision_recall_fscore_support

    check_predictions(predicted, labels)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(num_classes), zero_division=0
    )
    there = support > 0
    told = there | (np.bincount(predicted, minlength=num_classes) > 0)
    return ClassScores(
        precision=precision,
        recall=recall,
        support=support.astype(np.int64),
        balanced_accuracy=float(recall[there].mean()),
        macro_f1=float(f1[told].mean()),
    )


def class_shares(classes: NDArray[np.int64]) -> list[int]:
    """Whole-number weights by which every class counts the same: in proportion to 1 / (examples of the class).

    Args:
        classes: Class of each example, int64 [example].

    Returns:
        Weight of the examples of each class; 0 for a class without any.
    """
    counts = np.bincount(classes).tolist()
    whole = math.lcm(*(count for count in counts if count))
    return [whole // count if count else 0 for count in counts]


def balanced_accuracies(correct: NDArray[np.bool_], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean share of correct examples over classes, float64 [member]; computed in whole numbers up to one division.

    Args:
        correct: Whether each member gets each example right, bool [member, example].
        classes: Class of each example, int64 [example].

    Raises:
        InputError: If there are different numbers of examples, or none.
    """
    if classes.shape != correct.shape[1:] or not len(classes):
        raise InputError(
            f"classes: expected one for each of {correct.shape[1]} examples, at least one, got {list(classes.shape)}"
        )
    shares = class_shares(classes)
    totals = [_weighed(np.bincount(classes[row], minlength=len(shares)), shares) for row in correct]
    whole = _weighed(np.bincount(classes), shares)
    return np.array([total / whole for total in totals], dtype=np.float64)


def _weighed(counts: NDArray[np.int64], shares: list[int]) -> int:
    return sum(count * share for count, share in zip(counts.tolist(), shares, strict=True))
