"""BatchStream: batches by number, so that a resume needs nothing but a counter."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from graftwork.errors import ConfigError, DataError
from graftwork.networks.execution import InputTransform
from graftwork.training._augment import Augmentation, mixed
from graftwork.training._options import check_range
from graftwork.training._seeding import generator_for

Images = Tensor | NDArray[np.uint8]
"""uint8 images [N, H, W, C] (or float32 features of them): a tensor, or an array such as a memory map."""


def take_images(images: Images, examples: Tensor | slice) -> Tensor:
    """Some of the images as a tensor, uint8 [B, H, W, C]: a copy, or a view for a slice of a tensor."""
    if isinstance(images, Tensor):
        return images[examples if isinstance(examples, slice) else examples.to(images.device)]
    where: Any = examples if isinstance(examples, slice) else examples.numpy()
    # np.array copies: a memory map may be read-only, which torch tensors can't be
    return torch.from_numpy(np.array(images[where]))


def resident(images: Images, device: torch.device) -> Images:
    """Images on the device that they train on, where that is a GPU and they take at most a quarter of its memory."""
    if device.type != "cuda" or images.nbytes > torch.cuda.get_device_properties(device).total_memory // 4:
        return images
    held = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    return held.to(device)


def shrink(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale network input [B, C, H, W] down, bilinear over all pixels; the result is channels last in memory."""
    smaller = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
    return smaller.contiguous(memory_format=torch.channels_last)


def most_parts(batch_size: int) -> int:
    """Number of parts into which a batch can be split: batch norm needs two images in each."""
    return max(1, batch_size // 2)


def part_of(batch_size: int, index: int, count: int) -> slice:
    """Choose the images of one part of a batch; parts differ by one image at most.

    Args:
        batch_size: Number of images in the batch.
        index: Number of the part, from 0.
        count: Number of parts.

    Raises:
        ConfigError: If the batch has not two images for every part.
    """
    if count > most_parts(batch_size):
        raise ConfigError(
            f"workers: expected at most {most_parts(batch_size)}, as they share batches of {batch_size} images and "
            f"need two each, got {count}; use fewer, or sync_every above 0, by which each trains on whole batches"
        )
    return slice(batch_size * index // count, batch_size * (index + 1) // count)


class BatchStream:
    """Endless batches of training images, each determined by ``(seed, number)`` alone.

    An epoch is a permutation of the examples that depends on ``(seed, epoch)``; examples left over after the last full
    batch are dropped (different ones each epoch). A set smaller than one batch is one batch. Any batch can be made at
    any time and in any order, so nothing has to be stored for a resume.

    Args:
        images: Stored images, uint8 [N, H, W, C], a tensor or a memory map; never written.
        labels: Class of every image [N].
        indices: Numbers of the images to train on [n].
        batch_size: Number of images in a batch.
        seed: Seed of order and augmentation.
        augmentation: How images are changed; ``None``: not at all.
        transform: Transform from bytes to network input.
        device: Device that batches are moved to; ``None``: they stay where the images are.

    Raises:
        DataError: If there are no examples, or labels do not match the images.
    """

    def __init__(
        self,
        images: Images,
        labels: Tensor | NDArray[Any],
        indices: Tensor | NDArray[Any],
        *,
        batch_size: int,
        seed: int,
        transform: InputTransform,
        augmentation: Augmentation | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_range("batch_size", batch_size, low=1, integer=True)
        self._images = images
        self._labels = torch.as_tensor(np.asarray(labels), dtype=torch.int64)
        self._indices = torch.as_tensor(np.asarray(indices), dtype=torch.int64)
        if len(self._labels) != len(images):
            raise DataError(f"batches: expected a label for each of {len(images)} images, got {len(self._labels)}")
        if len(self._indices) == 0:
            raise DataError("batches: expected at least one example to train on, got none")
        self.seed = seed
        self.augmentation = augmentation or Augmentation()
        self.transform = transform
        self.batch_size = min(batch_size, len(self._indices))
        self._device = device
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    @property
    def num_examples(self) -> int:
        """Number of examples to train on."""
        return len(self._indices)

    @property
    def batches_per_epoch(self) -> int:
        """Number of full batches in one pass over the examples, at least one."""
        return self.num_examples // self.batch_size

    def examples(self, number: int) -> Tensor:
        """Numbers of the images in batch ``number`` (from 0), int64 [B]."""
        epoch, position = divmod(number, self.batches_per_epoch)
        if epoch != self._epoch:
            generator = generator_for("order", self.seed, epoch)
            self._order = self._indices[torch.randperm(self.num_examples, generator=generator)]
            self._epoch = epoch
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]

    def batch(self, number: int, part: slice | None = None) -> tuple[Tensor, Tensor]:
        """Make one batch.

        Args:
            number: Number of the batch, from 0.
            part: Which of its images are wanted; they are the same, to the bit, as in the whole. ``None``: all.

        Returns:
            Network input, float [B, C, H, W], channels last in memory; and classes, int64 [B], or the share of each
            class where images were mixed, float [B, classes].
        """
        examples = self.examples(number)
        generator = generator_for("augmentation", self.seed, number)
        images = self.augmentation(
            take_images(self._images, examples),
            examples=examples,
            epoch=number // self.batches_per_epoch,
            generator=generator,
        )
        labels = self._labels[examples]
        if self.augmentation.mix > float(torch.rand((), generator=generator)):
            images, labels = mixed(images, labels, num_classes=int(self._labels.max()) + 1, generator=generator)
        if part is not None:  # only here, as changes are drawn for the whole batch
            images, labels = images[part], labels[part]
        if self._device is not None:
            images = images.to(self._device)
        return self.transform(images), labels.to(images.device)
