"""Augmentation: flips and shifts of whole batches of stored images."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from graftwork.errors import ConfigError
from graftwork.training._options import check_choice, check_range
from graftwork.training._seeding import example_bits
from graftwork.typing import Shape

Flip = Literal["none", "random", "alternate", "auto"]


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Mirror positions outside [0, size) at the border pixel, which is not repeated."""
    positions = positions.abs()
    return torch.where(positions >= size, 2 * (size - 1) - positions, positions)


def _check_shift(shift: int, height: int, width: int) -> None:
    if shift >= min(height, width):
        raise ConfigError(f"augmentation: shift: expected less than the images' sides, {height}x{width}, got {shift}")


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Mirror images left to right and shift them, reflecting at the border.

    Args:
        flip: Which images are mirrored. ``"none"``; ``"random"``: each image with probability 1/2; ``"alternate"``:
            half of the examples, by a hash of their number, in even epochs and the other half in odd ones, so that two
            epochs show every example both ways (Jordan 2024); ``"auto"``: ``"alternate"`` for colour and ``"none"``
            for grey images, which often show signs that a mirror turns into others (digits, letters, scans).
        shift: Largest shift in pixels, in each direction of height and width; every shift is equally likely.
            ``"auto"``: one sixteenth of the smaller side, at least 1 (2 for 32 pixels), or twice as far where images
            are few.

    Raises:
        ConfigError: If a value is out of its range.
    """

    flip: Flip = "none"
    shift: int | Literal["auto"] = 0

    def __post_init__(self) -> None:
        check_choice("augmentation: flip", self.flip, get_args(Flip))
        if self.shift != "auto":
            check_range("augmentation: shift", self.shift, low=0, integer=True)

    def resolve(self, input_shape: Shape, *, few: bool = False) -> "Augmentation":
        """Decide what is ``"auto"``.

        Args:
            input_shape: Channels, height and width of the images.
            few: Whether there are few images to train on.

        Raises:
            ConfigError: If ``shift`` is not smaller than the images.
        """
        channels, height, width = input_shape
        flip: Flip = self.flip if self.flip != "auto" else ("none" if channels == 1 else "alternate")
        shift = self.shift if self.shift != "auto" else max(1, round(min(height, width) / (8 if few else 16)))
        _check_shift(shift, height, width)
        return Augmentation(flip, shift)

    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        """Augment one batch.

        Args:
            images: Stored images, uint8 [B, H, W, C].
            examples: Number of each image in its data set [B], for ``"alternate"``.
            epoch: Number of the pass over the data, from 0, for ``"alternate"``.
            generator: Source of the random choices; the same state gives the same result.

        Returns:
            uint8 [B, H, W, C]: a new tensor, or ``images`` itself where there is nothing to do.

        Raises:
            ConfigError: If ``shift`` is not smaller than the images.
        """
        if self.flip == "none" and self.shift == 0:
            return images
        if self.flip == "auto" or self.shift == "auto":
            return self.resolve((images.shape[3], images.shape[1], images.shape[2]))(
                images, examples=examples, epoch=epoch, generator=generator
            )
        batch, height, width, channels = images.shape
        _check_shift(self.shift, height, width)
        rows, columns = torch.arange(height).expand(batch, -1), torch.arange(width).expand(batch, -1)
        if self.shift:
            offsets = torch.randint(-self.shift, self.shift + 1, (2, batch, 1), generator=generator)
            rows, columns = _reflect(rows + offsets[0], height), _reflect(columns + offsets[1], width)
        flipped = self._flipped(examples, epoch, generator)
        if flipped is not None:
            columns = torch.where(flipped[:, None], columns.flip(1), columns)
        # One gather of whole pixels does flip and shift together: a quarter of the time of indexing by three tensors
        starts = torch.arange(batch)[:, None] * height + rows
        pixels = (starts[:, :, None] * width + columns[:, None, :]).reshape(-1)
        return images.reshape(-1, channels).index_select(0, pixels.to(images.device)).reshape(images.shape)

    def _flipped(self, examples: Tensor, epoch: int, generator: torch.Generator) -> Tensor | None:
        """Which images are mirrored [B]; ``None``: none."""
        if self.flip == "random":
            return torch.rand(len(examples), generator=generator) < 0.5
        if self.flip == "alternate":
            return example_bits(examples.cpu()) ^ bool(epoch % 2)
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for TOML and JSON."""
        return asdict(self)
