"""Trunk: a frozen network from images to feature maps."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.errors import ConfigError


class Trunk(nn.Module):
    """A frozen network from images to feature maps, always in evaluation mode.

    Args:
        name: What ``--trunk`` said.
        module: Network from images to maps [B, C, h, w], tokens [B, n, C] (those in front of the largest square are
            left out) or vectors [B, C].
        origin: What the network was made from beside its weights, for the hash: a config, or source text.
        mean: Mean of each channel by which images are normalised, of values in [0, 1]; none for a module that does it.
        std: Deviation of each channel, likewise.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        *,
        origin: bytes,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.name = name
        self.module = module
        self.register_buffer("mean", torch.tensor(mean or [0.0]).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std or [1.0]).view(-1, 1, 1), persistent=False)
        self.sha256 = _digest(module, origin, [*mean, *std])
        self.eval().requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> "Trunk":
        """Stay in evaluation mode: a trunk is frozen."""
        super().train(mode=False)
        return self

    @property
    def num_parameters(self) -> int:
        """Number of its weights."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps [B, C', h, w] of images [B, C, H, W] with values in [0, 1]; grey ones are repeated."""
        channels = len(self.get_buffer("mean"))
        if images.shape[1] == 1 and channels > 1:
            images = images.expand(-1, channels, -1, -1)
        found: Any = self.module((images - self.get_buffer("mean")) / self.get_buffer("std"))
        return _maps(found, channels_last=getattr(self.module, "output_fmt", "NCHW") == "NHWC")

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features, float32 [B, h, w, C'], of stored images, uint8 [B, H, W, C].

        Raises:
            ConfigError: If the network can't take images of this shape.
        """
        pixels = (images.permute(0, 3, 1, 2).float() / 255).contiguous()
        try:
            found: Tensor = self(pixels)
        except (RuntimeError, ValueError, TypeError) as error:
            height, width, channels = images.shape[1:]
            raise ConfigError(
                f"trunk: expected {self.name} to take images of {height}×{width} pixels and {channels} channels, got "
                f"its error: {error}; give the size that it was made for with --image-size"
            ) from error
        return found.float().permute(0, 2, 3, 1).contiguous()


def _maps(found: Any, *, channels_last: bool) -> Tensor:
    """Feature maps [B, C, h, w] of whatever a network gave."""
    maps: Any = getattr(found, "last_hidden_state", found)
    if isinstance(maps, tuple | list):
        maps = maps[-1]
    if not isinstance(maps, Tensor) or maps.ndim not in (2, 3, 4):
        raise TypeError(f"expected a tensor of 2, 3 or 4 axes, got {type(maps).__name__}")
    found_maps: Tensor = maps
    if found_maps.ndim == 2:
        return found_maps[:, :, None, None]
    if found_maps.ndim == 4:
        return found_maps.permute(0, 3, 1, 2) if channels_last else found_maps
    batch, count, channels = found_maps.shape
    side = math.isqrt(count)
    return found_maps[:, -(side**2) :].transpose(1, 2).reshape(batch, channels, side, side)


def _digest(module: nn.Module, origin: bytes, numbers: Sequence[float]) -> str:
    """SHA-256 over origin, normalisation, and the name, type, shape and bytes of every tensor."""
    digest = hashlib.sha256(origin + repr([float(number) for number in numbers]).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
