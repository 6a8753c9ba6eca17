"""What makes the accuracy on a data set doubtful: classes of uneven size, and splits of few images."""

import numpy as np
from numpy.typing import NDArray

from graftwork.datasets._dataset import ImageDataset, Labels
from graftwork.datasets._splits import Splits
from graftwork.metrics import wilson_interval

UNEVEN = 3
"""Classes are uneven where the largest has more than so many times the images of the smallest."""

_MANY = 100
"""Images from which on an accuracy is known to a few points."""


def class_counts(dataset: ImageDataset, rows: Labels) -> NDArray[np.int64]:
    """Number of images of each class among some rows, int64 [class]."""
    return np.bincount(dataset.labels[rows], minlength=len(dataset.class_names)).astype(np.int64)


def are_uneven(counts: NDArray[np.int64]) -> bool:
    """Whether classes of so many images, int64 [class], are uneven."""
    return bool(counts.max() > UNEVEN * counts.min())


def balanced_weights(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights in inverse proportion to the number of images of each class, whose mean over all images is 1.

    Args:
        counts: Number of images of each class, int64 [class].

    Returns:
        float64 [class]; 0 for a class without images.
    """
    there = counts > 0
    weights = np.zeros(len(counts))
    weights[there] = counts.sum() / (np.count_nonzero(there) * counts[there])
    return weights


def warnings_about(dataset: ImageDataset, splits: Splits) -> list[str]:
    """What to keep in mind with every accuracy on these data, a sentence each."""
    found = []
    counts = class_counts(dataset, splits.train)
    if are_uneven(counts):
        large, small = int(counts.argmax()), int(counts.argmin())
        names = dataset.class_names
        found.append(
            f"classes are uneven: {counts[large]:,} training images of {names[large]!r}, {counts[small]:,} of "
            f"{names[small]!r}; always saying {names[large]!r} would be right for {counts[large] / counts.sum():.1%}, "
            "so look at the balanced accuracy (--metric balanced-accuracy selects by it)"
        )
    for name, rows in (("validation", splits.validation), ("test", splits.test)):
        if 0 < len(rows) < _MANY:
            low, high = wilson_interval(len(rows) // 2, len(rows))
            found.append(
                f"the {name} split has {len(rows)} images: the 95 % interval of an accuracy there is up to "
                f"{100 * (high - low):.0f} points wide"
            )
    return found
