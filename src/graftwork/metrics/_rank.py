"""Agreement of two rankings."""

import math

import numpy as np
from numpy.typing import ArrayLike

from graftwork.errors import InputError


def kendall_tau(first: ArrayLike, second: ArrayLike) -> float:
    """Kendall's τ-b of two scores for the same items (Kendall 1945), with ties taken into account.

    1 means the same order, -1 the opposite order, near 0 no relation.

    Args:
        first: Score of each item, numbers [item]; at least two.
        second: Other score of each item, numbers [item].

    Returns:
        τ-b, or NaN when all items of one side are equal.

    Raises:
        InputError: If shapes differ, there are fewer than two items, or a score is NaN.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != other.shape or len(one) < 2 or np.isnan(one + other).any():
        raise InputError(
            "rank correlation: expected two lists of numbers for the same items, at least two of them, "
            f"got {first!r} and {second!r}"
        )
    low, high = np.triu_indices(len(one), k=1)
    signs_one = np.sign(one[high] - one[low]).astype(np.int64)
    signs_other = np.sign(other[high] - other[low]).astype(np.int64)
    untied = math.sqrt(int(np.count_nonzero(signs_one)) * int(np.count_nonzero(signs_other)))
    return int(signs_one @ signs_other) / untied if untied else math.nan
