"""Augmentation of whole batches of stored images: mirrored, shifted, scaled, recoloured, partly erased."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from graftwork.errors import ConfigError
from graftwork.training._options import check_choice, check_range
from graftwork.training._seeding import example_bits
from graftwork.typing import Shape

Flip = Literal["none", "random", "auto"]

AUGMENTATIONS: Mapping[str, Mapping[str, Any]] = {
    "none": {"shift": 0, "scale": 0.0, "colour": 0.0, "erase": 0.0, "mix": 0.0},
    "light": {"shift": "auto", "scale": 0.0, "colour": 0.0, "erase": 0.0, "mix": 0.0},
    "standard": {"shift": "auto", "scale": 0.2, "colour": 0.2, "erase": 0.25, "mix": 0.0},
    "strong": {"shift": "auto", "scale": 0.4, "colour": 0.4, "erase": 0.5, "mix": 0.5},
}
"""What ``--augment`` takes: how strongly images are changed, apart from mirroring."""


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Mirror positions outside [0, size) at the border pixel, which is not repeated."""
    positions = positions.abs()
    return torch.where(positions >= size, 2 * (size - 1) - positions, positions)


def _between(lines: Tensor, positions: Tensor) -> Tensor:
    """Values at fractional positions [B, T] along the first axis after the batch, linear: [B, S, …] → [B, T, …]."""
    size, batch = lines.shape[1], torch.arange(len(lines), device=lines.device)[:, None]
    positions = positions.to(lines.device)
    low = positions.floor()
    near, far = (lines[batch, _reflect(at.long(), size).clamp(0, size - 1)].float() for at in (low, low + 1))
    return near.lerp(far, (positions - low)[:, :, None, None])


def _spread(positions: Tensor, factors: Tensor, size: int) -> Tensor:
    """Positions [B, T] moved away from the middle of an axis by factors [B, 1], or towards it."""
    middle = (size - 1) / 2
    return (positions - middle) * factors + middle


def _check_shift(shift: int, height: int, width: int) -> None:
    if shift >= min(height, width):
        raise ConfigError(f"augmentation: shift: expected less than the images' sides, {height}x{width}, got {shift}")


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How training images are changed: each by draws of its own.

    Args:
        flip: Which images are mirrored left to right. ``"none"``; ``"random"``: half of the examples, by a hash of
            their number, in even epochs and the other half in odd ones, so that two epochs show every example both ways
            (Jordan 2024); ``"auto"``: as a race on validation decides where a session searches, otherwise ``"random"``
            for colour and ``"none"`` for grey images, which often show signs that a mirror turns into others (digits,
            letters, scans).
        shift: Largest shift in pixels, in each direction of height and width, reflecting at the border; every shift is
            equally likely. ``"auto"``: one sixteenth of the smaller side, at least 1 (2 for 32 pixels), or twice as far
            where images are few.
        scale: An image is made larger or smaller about its middle by a factor up to 1 + ``scale``.
        colour: Brightness, contrast and saturation are multiplied by factors within ``colour`` of 1.
        erase: Probability that a rectangle, of up to half the sides, is painted over with the mean colour of the image
            (Zhong 2020).
        mix: Probability that the images of a batch are mixed in pairs, and so are their labels: blended (mixup, Zhang
            2018) or one set into the other (CutMix, Yun 2019).

    Raises:
        ConfigError: If a value is out of its range.
    """

    flip: Flip = "none"
    shift: int | Literal["auto"] = 0
    scale: float = 0.0
    colour: float = 0.0
    erase: float = 0.0
    mix: float = 0.0

    def __post_init__(self) -> None:
        check_choice("augmentation: flip", self.flip, get_args(Flip))
        if self.shift != "auto":
            check_range("augmentation: shift", self.shift, low=0, integer=True)
        for name in ("scale", "colour", "erase", "mix"):
            check_range(f"augmentation: {name}", getattr(self, name), low=0, high=1)

    def at(self, level: str) -> "Augmentation":
        """Return the augmentation of a level of `AUGMENTATIONS`, mirrored as here.

        Raises:
            ConfigError: If there is no such level.
        """
        check_choice("augment", level, tuple(AUGMENTATIONS))
        return replace(self, **AUGMENTATIONS[level])

    def resolve(self, input_shape: Shape, *, few: bool = False) -> "Augmentation":
        """Decide what is ``"auto"``.

        Args:
            input_shape: Channels, height and width of the images.
            few: Whether there are few images to train on.

        Raises:
            ConfigError: If ``shift`` is not smaller than the images.
        """
        channels, height, width = input_shape
        flip: Flip = self.flip if self.flip != "auto" else ("none" if channels == 1 else "random")
        shift = self.shift if self.shift != "auto" else max(1, round(min(height, width) / (8 if few else 16)))
        _check_shift(shift, height, width)
        return replace(self, flip=flip, shift=shift)

    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        """Change the images of one batch, each alone (``mix`` is left to `mixed`).

        Args:
            images: Stored images, uint8 [B, H, W, C].
            examples: Number of each image in its data set [B].
            epoch: Number of the pass over the data, from 0.
            generator: Source of the random choices; the same state gives the same result.

        Returns:
            uint8 [B, H, W, C]: a new tensor, or ``images`` itself where there is nothing to do.

        Raises:
            ConfigError: If ``shift`` is not smaller than the images.
        """
        if self.flip == "auto" or self.shift == "auto":
            return self.resolve((images.shape[3], images.shape[1], images.shape[2]))(
                images, examples=examples, epoch=epoch, generator=generator
            )
        if self.flip != "none" or self.shift or self.scale:
            images = self._moved(images, examples, epoch, generator)
        if self.colour:
            images = self._recoloured(images, generator)
        return self._erased(images, generator) if self.erase else images

    def _moved(self, images: Tensor, examples: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        """Mirrored, shifted and scaled."""
        batch, height, width, channels = images.shape
        assert self.shift != "auto"
        _check_shift(self.shift, height, width)
        rows, columns = torch.arange(height).expand(batch, -1), torch.arange(width).expand(batch, -1)
        if self.shift:
            offsets = torch.randint(-self.shift, self.shift + 1, (2, batch, 1), generator=generator)
            rows, columns = rows + offsets[0], columns + offsets[1]
        if self.flip == "random":
            flipped = example_bits(examples.cpu()) ^ bool(epoch % 2)
            columns = torch.where(flipped[:, None], columns.flip(1), columns)
        if self.scale:
            factors = (1 + self.scale) ** (2 * torch.rand(batch, 1, generator=generator) - 1)
            scaled = _between(images, _spread(rows, factors, height))
            scaled = _between(scaled.transpose(1, 2), _spread(columns, factors, width)).transpose(1, 2)
            return scaled.round().to(torch.uint8)
        rows, columns = _reflect(rows, height), _reflect(columns, width)
        # One gather of whole pixels does flip and shift together: a quarter of the time of indexing by three tensors
        starts = torch.arange(batch)[:, None] * height + rows
        pixels = (starts[:, :, None] * width + columns[:, None, :]).reshape(-1)
        return images.reshape(-1, channels).index_select(0, pixels.to(images.device)).reshape(images.shape)

    def _recoloured(self, images: Tensor, generator: torch.Generator) -> Tensor:
        draws = 1 + self.colour * (2 * torch.rand(3, len(images), 1, 1, 1, generator=generator) - 1)
        brightness, contrast, saturation = draws.to(images.device)
        values = images.float() * brightness
        mean = values.mean((1, 2, 3), keepdim=True)
        values = mean + (values - mean) * contrast
        grey = values.mean(3, keepdim=True)
        values = grey + (values - grey) * saturation
        changed: Tensor = values.round().clamp(0, 255).to(torch.uint8)
        return changed

    def _erased(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Painted over: rectangles whose sides are an eighth to a half of the image's."""
        batch, height, width, _ = images.shape
        draws = torch.rand(5, batch, 1, generator=generator)
        inside = []
        for size, side, place in ((height, draws[0], draws[1]), (width, draws[2], draws[3])):
            length = size * (0.125 + 0.375 * side)
            start, positions = (size - length) * place, torch.arange(size)
            inside.append((positions >= start) & (positions < start + length))
        hidden = inside[0][:, :, None] & inside[1][:, None, :] & (draws[4] < self.erase)[:, :, None]
        mean = images.float().mean((1, 2), keepdim=True).round().to(torch.uint8)
        return torch.where(hidden[..., None].to(images.device), mean, images)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for TOML and JSON."""
        return asdict(self)


def mixed(images: Tensor, labels: Tensor, *, num_classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix every image of a batch with another one: all blended, or all with a rectangle of the other in them.

    Args:
        images: uint8 [B, H, W, C].
        labels: Classes, int64 [B].
        num_classes: Number of classes.
        generator: Source of the random choices.

    Returns:
        Images, uint8 [B, H, W, C], and the share that each class has in them, float [B, classes].
    """
    _, height, width, _ = images.shape
    others = torch.randperm(len(images), generator=generator).to(images.device)
    kind, share, down, right = torch.rand(4, generator=generator).tolist()
    if kind < 0.5:
        images = images.float().lerp(images[others].float(), share).round().to(torch.uint8)
    else:
        rows, columns = round(height * share**0.5), round(width * share**0.5)
        top, left = round((height - rows) * down), round((width - columns) * right)
        pasted = images.clone()
        pasted[:, top : top + rows, left : left + columns] = images[others, top : top + rows, left : left + columns]
        images, share = pasted, rows * columns / (height * width)
    shares = torch.nn.functional.one_hot(labels, num_classes).float()
    return images, shares.lerp(shares[others.to(labels.device)], share)
