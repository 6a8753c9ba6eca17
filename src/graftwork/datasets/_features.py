"""Features of a data set's images in the place of the images, computed once and kept in the cache."""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.datasets._cache import cache_folder, cached
from graftwork.datasets._dataset import ImageDataset
from graftwork.datasets._listing import Raw

_BATCH = 32


def with_features(
    dataset: ImageDataset, compute: Callable[[NDArray[np.uint8]], NDArray[np.float32]], *, key: str
) -> ImageDataset:
    """The same data set with features for images.

    Args:
        dataset: Images and labels.
        compute: Function from images, uint8 [B, H, W, C], to their features, float32 [B, h, w, C'].
        key: What the function is, for the cache: equal where it gives equal features.

    Returns:
        Memory-mapped features, float32 [N, h, w, C'], with a fingerprint of their own.
    """

    def read() -> Raw:
        raw = Raw(dataset.images, dataset.labels, dataset.class_names, skipped=list(dataset.skipped))
        with tempfile.TemporaryDirectory(dir=cache_folder(), ignore_cleanup_errors=True) as folder:
            raw.images = _computed(dataset.images, compute, Path(folder) / "images.npy")
            if dataset.test_images is not None:
                raw.test_images = _computed(dataset.test_images, compute, Path(folder) / "test_images.npy")
                raw.test_labels = dataset.test_labels
        return raw  # the maps keep the files until they are copied into the cache

    name = hashlib.sha256(f"{dataset.fingerprint} {key}".encode()).hexdigest()[:24]
    found = cached(f"features-{name}", read, name=dataset.name, source=f"the features of {dataset.name}")
    return replace(found, skipped=dataset.skipped)


def _computed(images: NDArray[np.uint8], compute: Callable[..., NDArray[np.float32]], path: Path) -> Any:
    """Features of all images, in a file that memory is not needed for."""
    out: Any = None
    for start in range(0, len(images), _BATCH):
        part = compute(np.array(images[start : start + _BATCH]))
        if out is None:
            shape = (len(images), *part.shape[1:])
            out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        out[start : start + len(part)] = part
    return out
