"""From stored images to network input."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class InputTransform:
    """Scale stored bytes and normalise each channel.

    Args:
        mean: Mean of each channel, of values scaled to [0, 1].
        std: Standard deviation of each channel, likewise; greater than 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def flops(self) -> int:
        """FLOPs for one image beside scaling, which is not counted: those of a network that comes first."""
        return 0

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8 images [B, H, W, C] into floats [B, C, H, W], channels last in memory."""
        batch, height, breadth, channels = images.shape
        # whole rows of pixels at once: a loop over the few channels of a pixel is too short for vectors
        lines = images.to(torch.float32).reshape(batch * height, breadth * channels)
        scale = self._line([1 / (255 * s) for s in self.std], breadth, images)
        shift = self._line([-m / s for m, s in zip(self.mean, self.std, strict=True)], breadth, images)
        out = (lines * scale).add_(shift).view(images.shape)
        return out.permute(0, 3, 1, 2)  # NHWC memory seen as NCHW: channels-last without a copy

    @staticmethod
    def _line(values: Sequence[float], breadth: int, like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=like.device).repeat(breadth)
