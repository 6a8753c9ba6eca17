"""How far a model's probabilities can be believed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import InputError
from graftwork.metrics._check import check_probabilities


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against accuracy in bins of equal width: the data of a calibration plot.

    Attributes:
        edges: Borders of the bins, float64 [bin + 1], from 0 to 1. A bin includes its upper edge, not its lower one.
        counts: Number of examples, int64 [bin].
        confidences: Mean of the largest probability, float64 [bin]; NaN where a bin is empty.
        accuracies: Share of correct examples, float64 [bin]; NaN where a bin is empty.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    confidences: NDArray[np.float64]
    accuracies: NDArray[np.float64]


def reliability(probabilities: NDArray[np.floating], labels: NDArray[np.int64], *, num_bins: int = 15) -> Reliability:
    """Sort predictions into bins by confidence, the largest probability of each row.

    Args:
        probabilities: Probability of each class, float [example, class]; rows sum to 1.
        labels: True class of each example, int64 [example].
        num_bins: Number of bins of equal width in [0, 1].

    Raises:
        InputError: If shapes don't fit, a row doesn't sum to 1, a label is out of range, or there are no bins.
    """
    check_probabilities(probabilities, labels)
    if num_bins < 1:
        raise InputError(f"num_bins: expected a number >= 1, got {num_bins!r}")
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins).astype(np.int64)
    with np.errstate(invalid="ignore"):
        confidences = np.bincount(bins, weights=confidence, minlength=num_bins) / counts
        accuracies = np.bincount(bins[correct], minlength=num_bins) / counts
    return Reliability(np.linspace(0, 1, num_bins + 1), counts, confidences, accuracies)


def expected_calibration_error(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64], *, num_bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over bins, weighted by their counts (Guo et al. 2017, eq. 3).

    0 is perfectly calibrated, 1 the worst. Arguments and errors are those of ``reliability``.
    """
    bins = reliability(probabilities, labels, num_bins=num_bins)
    gaps = np.abs(bins.accuracies - bins.confidences)[bins.counts > 0]
    return float(np.average(gaps, weights=bins.counts[bins.counts > 0]))


def negative_log_likelihood(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Mean of -ln P(true label), in nats.

    Probabilities below the smallest normal number of their type count as that number, so the result is finite.

    Args:
        probabilities: Probability of each class, float [example, class]; rows sum to 1.
        labels: True class of each example, int64 [example].

    Raises:
        InputError: If shapes don't fit, a row doesn't sum to 1, or a label is out of range.
    """
    check_probabilities(probabilities, labels)
    likelihood = probabilities[np.arange(len(labels)), labels]
    floor = np.finfo(probabilities.dtype).tiny
    return float(-np.log(np.maximum(likelihood, floor), dtype=np.float64).mean())
