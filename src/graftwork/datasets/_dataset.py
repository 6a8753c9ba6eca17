"""ImageDataset: images and labels, decoded."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork._html import table
from graftwork.errors import DataError

Images = NDArray[np.uint8]
"""uint8 [N, H, W, C], usually a read-only memory map."""
Labels = NDArray[np.int64]
"""int64 [N], from 0."""


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images and labels, decoded; a test split that the source brings is kept apart.

    Args:
        name: Name of the source.
        images: Images, uint8 [N, H, W, C], without the source's test split.
        labels: Class of each image, int64 [N].
        class_names: Names of the classes, in order of labels.
        fingerprint: SHA-256 over shapes, pixels, labels and class names, and over validation split and groups.
        test_images: Images of the test split, uint8 [n, H, W, C]; ``None`` where the source has none.
        test_labels: Class of each of these, int64 [n]; ``None`` likewise.
        validation: Rows of ``images`` that are the source's validation split, int64; ``None`` where it has none.
        groups: Group of each image, int64 [N]; none of them may be in two splits. ``None``: no groups.
        copies: Images with the same number have the same pixels, int64 [N + n], those of the test split last; ``None``:
            not known.
        alike: For each image the row of another that looks much alike, -1 for none, int64 [N + n]; ``None``: not known.
        names: What each image was called, those of the test split last; empty: not known.
        skipped: What was passed over or could not be read, each with the reason.
    """

    name: str
    images: Images
    labels: Labels
    class_names: tuple[str, ...]
    fingerprint: str
    test_images: Images | None = None
    test_labels: Labels | None = None
    validation: Labels | None = None
    groups: Labels | None = None
    copies: Labels | None = None
    alike: Labels | None = None
    names: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.images.shape[1:]
        return int(height), int(width), int(channels)

    def name_of(self, row: int) -> str:
        """What an image was called; rows of the test split follow those of the others."""
        count = len(self.images)
        return self.names[row] if self.names else f"test image {row - count}" if row >= count else f"image {row}"

    def channel_moments(self, rows: Labels | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of each channel: float64 [C] each, of values scaled to [0, 1].

        The images are read once and in chunks, so a data set need not fit into memory.

        Args:
            rows: Indices of the images; ``None``: all.
        """
        chosen = np.arange(len(self.images)) if rows is None else np.sort(rows)
        total, squares, count = np.zeros(self.shape[2]), np.zeros(self.shape[2]), 0
        for start in range(0, len(chosen), 2048):
            chunk = self.images[chosen[start : start + 2048]].reshape(-1, self.shape[2]).astype(np.float32) / 255
            total += chunk.sum(0, dtype=np.float64)
            squares += np.square(chunk).sum(0, dtype=np.float64)
            count += len(chunk)
        mean = total / count
        return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))

    def __repr__(self) -> str:
        size = "×".join(map(str, self.shape))
        test = f" + {len(self.test_images)} test" if self.test_images is not None else ""
        return f"<ImageDataset {self.name}: {len(self.images)}{test} images of {size}, {len(self.class_names)} classes>"

    def _repr_html_(self) -> str:
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        rows = [(name, f"{count:,}") for name, count in zip(self.class_names, counts, strict=True)]
        return table(repr(self), ("class", "images"), rows)


def check_labels(
    labels: NDArray[Any], class_names: tuple[str, ...], source: str, *, every_class: bool = True
) -> Labels:
    """Check that labels number the classes.

    Args:
        labels: Class of each image [N].
        class_names: Names of the classes, in order of labels.
        source: The source, as messages name it.
        every_class: Whether each class must have at least two images (one to train on, one to be held out).

    Returns:
        The labels, int64 [N].

    Raises:
        DataError: If a label is no integer or out of range, or there are too few classes, or too few images of one.
    """
    if labels.dtype.kind not in "iu":
        raise DataError(f"{source}: expected integers as labels, got {labels.dtype}")
    if len(class_names) < 2:
        raise DataError(f"{source}: expected at least two classes, got {', '.join(class_names) or 'none'}")
    wrong = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(wrong):
        raise DataError(
            f"{source}: expected labels in 0 … {len(class_names) - 1}, got {int(labels[wrong[0]])} in row "
            f"{int(wrong[0])}"
        )
    counts = np.bincount(labels, minlength=len(class_names))
    if every_class and counts.min() < 2:
        which = int(counts.argmin())
        raise DataError(
            f"{source}: expected at least 2 images of every class, got {counts[which]} of {class_names[which]!r}; "
            "add images, or leave the class out"
        )
    return labels.astype(np.int64)
