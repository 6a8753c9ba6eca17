"""Rows with weights, in an order of their own: neither order nor repetition changes a fit."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_REPEATS = 16
"""Times the number of rows that whole weights may come to; others are rounded to `_ROUNDED` of them."""
_ROUNDED = 8


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows that differ, each with its class and the number of times that it counts.

    Args:
        values: Features or images, uint8 or float32 [N, H, W, C].
        labels: Class of each row, int64 [N].
        counts: Times that each row counts in training and scoring, int64 [N].
    """

    values: NDArray[Any]
    labels: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def fewest(self) -> int:
        """Number of rows of the rarest class."""
        return int(np.bincount(self.labels).min())

    def repeated(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of rows, each as often as it counts."""
        return np.repeat(rows, self.counts[rows])


def merge_rows(values: NDArray[Any], labels: NDArray[np.int64], weights: NDArray[np.float64]) -> Rows:
    """Put rows into the order of their hashes, equal ones together; their weights are added, and 0 is left out.

    So a row of weight 2 is the same as two such rows, to the bit.

    Args:
        values: uint8 or float32 [N, H, W, C].
        labels: Class of each row, int64 [N].
        weights: At least 0, not all 0, float64 [N].
    """
    used = np.flatnonzero(weights > 0)
    digests = np.array([_digest(values[row], labels[row]) for row in used], dtype="S16")
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    kept = used[first]
    return Rows(values[kept], labels[kept], _counts(np.bincount(group, weights[used]).astype(np.float64)))


def _digest(value: NDArray[Any], label: np.int64) -> bytes:
    # a last byte of zero would be cut off by numpy, and ends no other digest
    return blake2b(np.ascontiguousarray(value).data, digest_size=15, key=label.tobytes()).digest() + b"."


def _counts(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers in the proportions of weights: exactly, where these are multiples of the smallest."""
    multiples = weights / weights.min()
    whole = np.rint(multiples)
    if np.allclose(multiples, whole, rtol=1e-6) and whole.sum() <= _MOST_REPEATS * len(weights):
        return np.asarray(whole, dtype=np.int64)
    ends = np.rint(np.cumsum(weights) * (_ROUNDED * len(weights) / weights.sum()))
    return np.asarray(np.diff(ends, prepend=0.0), dtype=np.int64)
