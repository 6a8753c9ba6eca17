"""Problem: the data of a search, split and normalised."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftwork._files import parse_json, read_named
from graftwork.datasets import (
    ImageDataset,
    Splits,
    are_uneven,
    balanced_weights,
    class_counts,
    describe,
    load_dataset,
    split,
    with_features,
)
from graftwork.errors import ConfigError
from graftwork.networks.execution import InputTransform
from graftwork.networks.genome import Genome, seed_genome
from graftwork.session._config import SearchConfig, parse_image_size
from graftwork.session._learned import LearnedTransform
from graftwork.training import Augmentation, Beside, Recipe, take_images
from graftwork.trunks import Trunk, open_trunk
from graftwork.typing import Shape

CALIBRATION_VALUES = 2**23
"""Most pixel values that are run as one batch when statistics are made."""


@dataclass(frozen=True)
class Problem:
    """Data as a search needs it.

    Args:
        dataset: All images.
        splits: Rows of training, validation, blend and test.
        transform: From stored bytes to network input; its mean and deviation are those of the training split. Where a
            trunk is trained, it is a part of this.
        trunk: Pretrained network whose features members read; ``None``: none.
        pixels: The images that it was given, where it is frozen and its features stand in their place; ``None``:
            ``dataset`` holds images.
    """

    dataset: ImageDataset
    splits: Splits
    transform: InputTransform
    trunk: Trunk | None = None
    pixels: ImageDataset | None = None

    @classmethod
    def load(cls, config: SearchConfig, *, held: Any = None, trunk: Trunk | None = None) -> "Problem":
        """Load and split the data set of a config.

        Args:
            config: Options of a search.
            held: Data that the program holds, in the place of those that the config names; ``None``: none.
            trunk: The config's trunk, opened; ``None``: it is opened here, unless that would run code.
        """
        dataset = load_dataset(
            config.data if held is None else held,
            image_size=parse_image_size(config.image_size),
            image_column=config.image_column,
            label_column=config.label_column,
            group_column=config.group_column,
            image_root=config.image_root,
            skip_bad_images=config.skip_bad_images,
            max_images=config.max_images,
        )
        seed = config.seed if config.split_seed is None else config.split_seed
        splits = split(dataset, seed=seed, validation=config.validation, blend=config.blend, test=config.test)
        if config.trunk is None:
            return cls.of(dataset, splits)
        trunk = trunk or open_trunk(config.trunk)
        features = with_features(dataset, partial(_features, trunk), key=trunk.sha256)
        transform = _transform(features, splits)
        if config.trunk_rate == 0:
            return cls(features, splits, transform, trunk, dataset)
        shapes = _shape(dataset), _shape(features)
        trunk.unfreeze()
        return cls(dataset, splits, LearnedTransform(transform.mean, transform.std, trunk, *shapes), trunk)

    @classmethod
    def of(cls, dataset: ImageDataset, splits: Splits) -> "Problem":
        """The problem of images that are split: they are normalised by those of the training split."""
        return cls(dataset, splits, _transform(dataset, splits))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what members read."""
        return self.transform.features if isinstance(self.transform, LearnedTransform) else _shape(self.dataset)

    @property
    def learned(self) -> LearnedTransform | None:
        """The transform, where a trunk is trained in it; ``None``: nothing is."""
        return self.transform if isinstance(self.transform, LearnedTransform) else None

    def beside(self, rate: float, device: torch.device) -> Beside | None:
        """The weights of a trunk that is trained at this rate, moved to a device; ``None`` without one."""
        return None if self.learned is None else self.learned.beside(rate, device)

    def memory_left(self, most: int | None, batch_size: int) -> int | None:
        """What training a trunk leaves of so many bytes; all where there is none to train."""
        return most if self.learned is None else self.learned.left(most, batch_size)

    def images(self, rows: np.ndarray[Any, Any]) -> Tensor:
        """Read some rows into memory: uint8 [n, H, W, C], or float32 features behind a trunk."""
        return take_images(self.dataset.images, torch.from_numpy(rows))

    def shown(self, rows: np.ndarray[Any, Any]) -> Tensor:
        """Read some rows as they were before a trunk made features of them: uint8 [n, H, W, C]."""
        return take_images((self.pixels or self.dataset).images, torch.from_numpy(rows))

    def labels(self, rows: np.ndarray[Any, Any]) -> Tensor:
        """Read the labels of some rows: int64 [n]."""
        return torch.from_numpy(np.asarray(self.dataset.labels[rows], dtype=np.int64))

    def test(self) -> tuple[Tensor, Tensor, Tensor]:
        """Open the test split, as `images` does: uint8 [n, H, W, C], labels int64 [n], rows int64 [n]."""
        rows = self.splits.test
        images, labels = self.dataset.images, self.dataset.labels
        if self.dataset.test_images is not None and self.dataset.test_labels is not None:
            images, labels = self.dataset.test_images, self.dataset.test_labels
        taken = torch.from_numpy(np.ascontiguousarray(images[rows]))
        return taken, torch.from_numpy(np.asarray(labels[rows], dtype=np.int64)), torch.from_numpy(rows.copy())

    def pictures(self, split: str, rows: np.ndarray[Any, Any], /) -> np.ndarray[Any, Any]:
        """Read rows as predictions name them, of ``"test"`` or of any other split: uint8 [n, H, W, C]."""
        shown = self.pixels or self.dataset
        given = shown.test_images
        images = given if split == "test" and given is not None else shown.images
        return np.asarray(images[rows])

    def file_names(self, split: str, rows: np.ndarray[Any, Any], /) -> list[str]:
        """Names of the files of rows as predictions name them; none where the data set knows no names."""
        shown = self.pixels or self.dataset
        first = len(shown.images) if split == "test" and shown.test_images is not None else 0
        return [shown.names[first + row] for row in rows.tolist()] if shown.names else []

    def describe(self) -> dict[str, Any]:
        """Describe the data, and the trunk that made features of them, as plain data."""
        found = describe(self.pixels or self.dataset, self.splits)
        if self.trunk is None:
            return found
        trunk = {
            "name": self.trunk.name,
            "sha256": self.trunk.sha256,
            "parameters": self.trunk.num_parameters,
            "features": list(self.input_shape),
            "images": found["fingerprint"],
            "mean": list(self.transform.mean),
            "std": list(self.transform.std),
        }
        return {**found, "fingerprint": self.dataset.fingerprint, "trunk": trunk}

    def fit(self, recipe: Recipe) -> Recipe:
        """Decide what a recipe leaves to the data (see `graftwork.training.Recipe.fit`)."""
        if self.pixels is not None:  # features are cached, so they can't be flipped or shifted
            recipe = recipe.replace(augmentation=Augmentation())
        elif self.learned is not None and recipe.augmentation.flip == "auto":
            recipe = recipe.mirrored("none")  # a race would train trunks of its own
        uneven = are_uneven(class_counts(self.dataset, self.splits.train))
        return recipe.fit(_shape(self.dataset), num_images=len(self.splits.train), uneven=uneven)

    def class_weights(self, recipe: Recipe) -> Tensor | None:
        """Weight of the training examples of each class, float32 [class], as a recipe that fits says; ``None``: 1."""
        if recipe.class_weights != "balanced":
            return None
        return torch.from_numpy(balanced_weights(class_counts(self.dataset, self.splits.train))).float()

    def calibration_rows(self, wanted: int) -> np.ndarray[Any, Any]:
        """Choose the calibration subset: ``wanted`` rows, or as many as fit in one batch."""
        return self.splits.calibration(min(most_calibration(wanted, self.input_shape), len(self.splits.train)))


def _shape(dataset: ImageDataset) -> tuple[int, int, int]:
    """Channels, height and width of the stored images."""
    _, height, width, channels = dataset.images.shape
    return channels, height, width


def most_calibration(wanted: int, input_shape: Shape) -> int:
    """Number of images that statistics are made from: as many as are wanted, or as fit in one batch."""
    return min(wanted, max(2, CALIBRATION_VALUES // int(np.prod(input_shape))))


def read_genome(path: str) -> Genome:
    """Read the genome of a file that the user has named.

    Raises:
        ConfigError: If it can't be read.
    """
    try:
        data = read_named(Path(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"genome: expected a JSON file, got {path} ({error}); check the path") from error
    return Genome.from_dict(parse_json(data, path, error=ConfigError))


def _transform(dataset: ImageDataset, splits: Splits) -> InputTransform:
    """Normalisation by the training split; channels that hardly differ there are not blown up."""
    mean, std = dataset.channel_moments(splits.train)
    least = 1e-3 if dataset.images.dtype == np.uint8 else 0.01 * float(std.max()) or 1e-3
    return InputTransform(tuple(map(float, mean)), tuple(max(float(s), least) for s in std))


def _features(trunk: Trunk, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found = trunk.features(torch.from_numpy(images))
    if not bool(found.isfinite().all()):
        raise ConfigError(
            f"trunk: expected finite features of {trunk.name}, got NaN or infinity; check its weights and how it "
            "normalises images"
        )
    return found.numpy()


def seed_of(config: SearchConfig, problem: Problem) -> Genome:
    """Return h_i for a problem: from the config's file, or the recipe's.

    Raises:
        ConfigError: If the file can't be read, or its genome is for other images or classes.
    """
    classes = len(problem.dataset.class_names)
    if config.genome is None:
        name = config.recipe.seed_genome if problem.trunk is None else "trunk"
        return seed_genome(name, problem.input_shape, classes)
    genome = read_genome(config.genome)
    if genome.input_shape != problem.input_shape or genome.num_classes != classes:
        raise ConfigError(
            f"genome: expected one for images {problem.input_shape} of {classes} classes, as the data are, got "
            f"{genome.input_shape} and {genome.num_classes} in {config.genome}; make one for these data"
        )
    return genome
