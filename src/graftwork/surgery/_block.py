"""The R2R block that deepening inserts."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftwork.numerics import matched_uniform, twin_columns, twin_rows

_NORMS: dict[str, dict[int, type[nn.Module]]] = {
    "batch": {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "instance": {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
}


class R2RBlock(nn.Module):
    """Residual block that starts as the identity: ``x + β σ(norm(W x)) − β σ(norm(W x))``.

    Both halves are computed by the same operations on equal numbers, multiplied apart and added, so the block
    starts as the identity exactly, in any floating-point type. They train apart from the first step on.

    Args:
        channels: Channels of the input and output.
        hidden: Hidden channels of both halves together, even.
        spatial: Number of spatial dimensions: 0 for a linear block over the last dimension (x[...,
            channels]), 1–3 for a convolution over x[B, channels, …].
        kernel_size: Odd size of the convolution; ignored for ``spatial=0``.
        norm: ``"batch"``, ``"instance"``, ``"group"`` (over each half's groups), ``"layer"`` or ``"rms"``
            (over the block's input, before W) or ``"none"``.
        groups: Groups of each half for ``norm="group"``.
        activation: The activation, deterministic and per channel.

    Source: the poster, "R2R block"; facts: W duplicated, β of the second half negated, biases at zero.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        spatial: int,
        kernel_size: int = 3,
        norm: str = "none",
        groups: int = 1,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.spatial = spatial
        self.before: nn.Module = nn.Identity()
        self.norm: nn.Module = nn.Identity()
        taps = [kernel_size] * spatial
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(torch.zeros(hidden, channels, *taps))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.mix = nn.Parameter(torch.zeros(channels, hidden, *([1] * spatial)))
        if norm in _NORMS and spatial in _NORMS[norm]:
            self.norm = _NORMS[norm][spatial](hidden, affine=True)
        elif norm == "group":
            self.norm = nn.GroupNorm(2 * groups, hidden)
        elif norm in {"layer", "rms"}:
            self.before = nn.LayerNorm(channels) if norm == "layer" else nn.RMSNorm(channels)
        self.activation = activation if activation is not None else nn.ReLU()

    @torch.no_grad()
    def initialize(self, *, scale: float, mix_scale: float, generator: torch.Generator) -> None:
        """Draw one half and repeat it.

        Args:
            scale: Standard deviation of W.
            mix_scale: Standard deviation of β.
            generator: Source of randomness on the CPU.
        """
        rows, columns = list(self.weight.shape), list(self.mix.shape)
        rows[0], columns[1] = rows[0] // 2, columns[1] // 2
        self.weight.copy_(twin_rows(matched_uniform(rows, std=scale, generator=generator, dtype=self.weight.dtype)))
        self.mix.copy_(twin_columns(matched_uniform(columns, std=mix_scale, generator=generator, dtype=self.mix.dtype)))
        self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + z(x)``.

        Args:
            x: [B, channels, …] for a convolution, [..., channels] for a linear block.
        """
        half = self.weight.shape[0] // 2
        channel = 1 if self.spatial > 0 else -1
        y = self.before(x)
        upper = _product(y, self.weight[:half].clone(), self.bias[:half].clone(), self.spatial, self.padding)
        lower = _product(y, self.weight[half:].clone(), self.bias[half:].clone(), self.spatial, self.padding)
        hidden = self.activation(self.norm(torch.cat([upper, lower], dim=channel)))
        # Equal numbers at equal alignment: otherwise the two products may round differently.
        halves = hidden.split(half, dim=channel)
        z = _product(halves[0].contiguous(), self.mix[:, :half].clone(), None, self.spatial, 0)
        z = z + _product(halves[1].contiguous(), self.mix[:, half:].clone(), None, self.spatial, 0)
        return x + z

    def extra_repr(self) -> str:
        """Return the sizes, for ``print(model)``."""
        taps = "×".join(map(str, self.weight.shape[2:])) or "linear"
        return f"{self.weight.shape[1]}, hidden={self.weight.shape[0]}, {taps}"


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, spatial: int, padding: int) -> Tensor:
    """A linear map or convolution, in words that ``torch.jit.script`` understands too."""
    if spatial == 0:
        return F.linear(x, weight, bias)
    if spatial == 1:
        return F.conv1d(x, weight, bias, padding=padding)
    if spatial == 2:
        return F.conv2d(x, weight, bias, padding=padding)
    return F.conv3d(x, weight, bias, padding=padding)


def default_scales(block: R2RBlock) -> tuple[float, float]:
    """Return LeCun scales for W and β, where the model has nothing to match."""
    fan = math.prod(block.weight.shape[1:])
    return math.sqrt(1.0 / fan), math.sqrt(1.0 / block.mix.shape[1])
