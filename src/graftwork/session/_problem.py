"""Problem: the data of a search, split and normalised."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftwork.datasets import (
    ImageDataset,
    Splits,
    are_uneven,
    balanced_weights,
    class_counts,
    describe,
    load_dataset,
    split,
)
from graftwork.networks.execution import InputTransform
from graftwork.session._config import SearchConfig
from graftwork.training import Recipe, take_images

CALIBRATION_VALUES = 2**23
"""Most pixel values that are run as one batch when statistics are made."""


@dataclass(frozen=True)
class Problem:
    """Data as a search needs it.

    Args:
        dataset: All images.
        splits: Rows of training, validation, blend and test.
        transform: From stored bytes to network input; its mean and deviation are those of the training split.
    """

    dataset: ImageDataset
    splits: Splits
    transform: InputTransform

    @classmethod
    def load(cls, config: SearchConfig) -> "Problem":
        """Load and split the data set of a config."""
        dataset = load_dataset(
            config.data,
            image_size=config.image_size,
            image_column=config.image_column,
            label_column=config.label_column,
            skip_bad_images=config.skip_bad_images,
        )
        seed = config.seed if config.split_seed is None else config.split_seed
        splits = split(dataset, seed=seed, validation=config.validation, blend=config.blend, test=config.test)
        mean, std = dataset.channel_moments(splits.train)
        return cls(dataset, splits, InputTransform(tuple(map(float, mean)), tuple(max(float(s), 1e-3) for s in std)))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, height, width, channels = self.dataset.images.shape
        return channels, height, width

    def images(self, rows: np.ndarray[Any, Any]) -> Tensor:
        """Read some rows into memory: uint8 [n, H, W, C]."""
        return take_images(self.dataset.images, torch.from_numpy(rows))

    def labels(self, rows: np.ndarray[Any, Any]) -> Tensor:
        """Read the labels of some rows: int64 [n]."""
        return torch.from_numpy(np.asarray(self.dataset.labels[rows], dtype=np.int64))

    def test(self) -> tuple[Tensor, Tensor, Tensor]:
        """Open the test split: images uint8 [n, H, W, C], labels int64 [n], rows int64 [n]."""
        rows = self.splits.test
        images, labels = self.dataset.images, self.dataset.labels
        if self.dataset.test_images is not None and self.dataset.test_labels is not None:
            images, labels = self.dataset.test_images, self.dataset.test_labels
        taken = torch.from_numpy(np.ascontiguousarray(images[rows]))
        return taken, torch.from_numpy(np.asarray(labels[rows], dtype=np.int64)), torch.from_numpy(rows.copy())

    def pictures(self, split: str, rows: np.ndarray[Any, Any], /) -> np.ndarray[Any, Any]:
        """Read rows as predictions name them, of ``"test"`` or of any other split: uint8 [n, H, W, C]."""
        given = self.dataset.test_images
        images = given if split == "test" and given is not None else self.dataset.images
        return np.asarray(images[rows])

    def file_names(self, split: str, rows: np.ndarray[Any, Any], /) -> list[str]:
        """Names of the files of rows as predictions name them; none where the data set knows no names."""
        names = getattr(self.dataset, "names", ())
        first = len(self.dataset.images) if split == "test" and self.dataset.test_images is not None else 0
        return [names[first + row] for row in rows.tolist()] if names else []

    def describe(self) -> dict[str, Any]:
        """Describe the data, as plain data."""
        return describe(self.dataset, self.splits)

    def fit(self, recipe: Recipe) -> Recipe:
        """Decide what a recipe leaves to the data (see `graftwork.training.Recipe.fit`)."""
        uneven = are_uneven(class_counts(self.dataset, self.splits.train))
        return recipe.fit(self.input_shape, num_images=len(self.splits.train), uneven=uneven)

    def class_weights(self, recipe: Recipe) -> Tensor | None:
        """Weight of the training examples of each class, float32 [class], as a recipe that fits says; ``None``: 1."""
        if recipe.class_weights != "balanced":
            return None
        return torch.from_numpy(balanced_weights(class_counts(self.dataset, self.splits.train))).float()

    def calibration_rows(self, wanted: int) -> np.ndarray[Any, Any]:
        """Choose the calibration subset: ``wanted`` rows, or as many as fit in one batch."""
        fit = max(2, CALIBRATION_VALUES // int(np.prod(self.input_shape)))
        return self.splits.calibration(min(wanted, fit, len(self.splits.train)))
