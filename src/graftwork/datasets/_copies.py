"""Images that are there twice: with the same pixels, or much alike."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SIDE, _CHUNK = 8, 256
_NEAR, _CONTRAST = 12.0, 0.2
"""Small images are alike if their gap (root mean square) is at most so many levels of 255, and so much of contrast."""
_MOST = 100_000


def number_copies(parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """Number images so that those with the same pixels, and no others, have the same number.

    Args:
        parts: Images, uint8, each [N, H, W, C] of the same height, width and channels.

    Returns:
        int64 [all images], rising where a number occurs for the first time.
    """
    known: dict[bytes, int] = {}
    digests = (hashlib.sha256(image.tobytes()).digest() for part in parts for image in part)
    return np.array([known.setdefault(digest, len(known)) for digest in digests], dtype=np.int64)


def find_alike(parts: Sequence[NDArray[np.uint8]], copies: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find for each image another that looks much alike: saved again, scaled, or taken a moment later.

    Images are averaged to 8 × 8 values of grey, and two are alike if these differ by at most 12 of 255 levels (root
    mean square) and a fifth of their contrast (standard deviation). Only images of nearly the same brightness are
    compared. On CIFAR-10, 311 of 60,000 images are alike.

    Args:
        parts: Images, as in `number_copies`.
        copies: What that returns; of images with the same pixels, the first stands for all.

    Returns:
        Row of the most alike image with other pixels, int64 [all images]; -1 for none, and for all where there are more
        than 100,000 images.
    """
    _, rows = np.unique(copies, return_index=True)
    found = np.full(len(rows), -1, dtype=np.int64)
    if len(rows) > _MOST:
        return found[copies]
    small = np.concatenate([_averaged(part) for part in parts])[rows]
    order = np.argsort(small.mean(1), kind="stable")
    small = small[order]
    mean, limit = small.mean(1), np.minimum(_NEAR, _CONTRAST * small.std(1))
    for start in range(0, len(rows), _CHUNK):
        stop = min(start + _CHUNK, len(rows))
        low, high = np.searchsorted(mean, [mean[start] - _NEAR, mean[stop - 1] + _NEAR])
        here, near = small[start:stop], small[low : max(high, stop)]
        gaps = (np.square(here).sum(1)[:, None] + np.square(near).sum(1) - 2 * here @ near.T) / _SIDE**2
        line = np.arange(stop - start)
        gaps[line, line + start - low] = np.inf
        best = gaps.argmin(1)
        close = gaps[line, best] <= np.square(np.minimum(limit[start:stop], limit[low + best]))
        found[order[start:stop][close]] = rows[order[low + best[close]]]
    return found[copies]


def _averaged(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey values of small images, float32 [N, 64], each the mean over its part of the image."""
    height, width = images.shape[1:3]
    down, across = _shares(height), _shares(width)
    small = np.empty((len(images), _SIDE * _SIDE), dtype=np.float32)
    for start in range(0, len(images), _CHUNK):
        grey = (
            images[start : start + _CHUNK].mean(3, dtype=np.float32) - 128
        )  # small numbers are squared exactly enough
        small[start : start + _CHUNK] = (down @ grey @ across.T).reshape(len(grey), -1)
    return small


def _shares(length: int) -> NDArray[np.float32]:
    """How much each pixel on a line of so many counts in each of its parts, float32 [part, length]; rows sum to 1."""
    edges = np.linspace(0, length, _SIDE + 1)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares: NDArray[np.float32] = (np.maximum(overlap, 0) * (_SIDE / length)).astype(np.float32)
    return shares
