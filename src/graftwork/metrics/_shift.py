"""Whether two samples come from one distribution."""

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import InputError


def sample_distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> tuple[float, float]:
    """Largest Kolmogorov–Smirnov distance of two samples over their columns (Rabanser et al. 2019, section 3).

    Args:
        one: Numbers of each example, float [example, column], such as the probabilities of classes.
        other: Those of other examples, float [other example, column].

    Returns:
        The distance, from 0 to 1, and its p-value times the number of columns (Bonferroni), at most 1.

    Raises:
        InputError: If the columns differ in number, or there are no examples.
    """
    from scipy.stats import ks_2samp

    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or 0 in (*one.shape, *other.shape):
        raise InputError(
            f"samples: expected two of [example, column], alike in columns, got {list(one.shape)}, {list(other.shape)}"
        )
    found = [ks_2samp(first, second, method="asymp") for first, second in zip(one.T, other.T, strict=True)]
    p_value = min(float(entry.pvalue) for entry in found) * len(found)
    return max(float(entry.statistic) for entry in found), min(1.0, p_value)
