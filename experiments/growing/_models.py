"""Networks of the growth experiments, written as anybody would write them: nothing in them knows of growth."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TransformerBlock(nn.Module):
    """Pre-norm causal self-attention and a feed-forward layer, each with a residual connection.

    Args:
        width: Width of the residual stream.
        num_heads: Number of heads; divides ``width``.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.queries = nn.Linear(width, width)
        self.keys = nn.Linear(width, width)
        self.values = nn.Linear(width, width)
        self.merge = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x[B, T, width] → the same shape."""
        batch, length, _ = x.shape
        y = self.attention_norm(x)
        q, k, v = (
            part(y).view(batch, length, self.num_heads, -1).transpose(1, 2)
            for part in (self.queries, self.keys, self.values)
        )
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.merge(heads.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))  # type: ignore[no-any-return]


class ByteGPT(nn.Module):
    """A decoder-only transformer over bytes, after GPT-2 in miniature.

    Args:
        depth: Number of blocks.
        width: Width of the residual stream.
        num_heads: Number of heads; divides ``width``.
        context: Longest input in bytes.
    """

    def __init__(self, depth: int, *, width: int, num_heads: int, context: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.positions = nn.Parameter(torch.zeros(context, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, num_heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                ends_branch = name.endswith(("merge.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * depth) ** 0.5 if ends_branch else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Bytes x[B, T] → logits of the next byte [B, T, 256]."""
        y = self.embedding(x) + self.positions[: x.shape[1]]
        return self.head(self.norm(self.blocks(y)))  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch norm around a residual connection, after He et al. (2015).

    Args:
        channels: Channels in, between and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] → the same shape; x must not be negative for the block to be able to start as the identity."""
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class StageNet(nn.Module):
    """A ResNet whose stages are a convolution with stride 2 and a number of residual blocks.

    Args:
        num_blocks: Number of blocks in every stage.
        channels: Channels of each stage.
        in_channels: Channels of the images.
        num_classes: Number of classes, at least 2.
    """

    def __init__(self, num_blocks: int, *, channels: Sequence[int], in_channels: int, num_classes: int) -> None:
        super().__init__()
        widths = [in_channels, *channels]
        self.downs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
            for i, o in pairwise(widths)
        )
        self.stages = nn.ModuleList(nn.Sequential(*(ResidualBlock(c) for _ in range(num_blocks))) for c in channels)
        self.head = nn.Linear(channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images x[B, C, H, W] → logits [B, classes]."""
        for down, stage in zip(self.downs, self.stages, strict=True):
            x = stage(down(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class PosterLayer(nn.Module):
    """The poster's layer as a plain module: 3×3 filters, norm, ReLU, 1×1 mixing, beside a zero-padded residual.

    Args:
        in_channels: Channels of the input.
        hidden: Number of filters.
        out_channels: Channels of the output, at least ``in_channels``.
    """

    def __init__(self, in_channels: int, hidden: int, out_channels: int) -> None:
        super().__init__()
        self.padding = out_channels - in_channels
        self.filter = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.norm = nn.BatchNorm2d(hidden)
        self.mix = nn.Conv2d(hidden, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x[B, in, H, W] → [B, out, H, W]."""
        z = self.mix(F.relu(self.norm(self.filter(x))))
        return z + F.pad(x, (0, 0, 0, 0, 0, self.padding))  # type: ignore[no-any-return]


class PosterNet(nn.Module):
    """The poster's base network: layers of 16, 32 and 64 channels, max-pools between, FC 128, ReLU, FC classes.

    Args:
        layers: Number of layers in each stage; (2, 2, 2) is the base network.
        width: Share of the filters of the base network, which has half as many as a layer has channels.
        input_shape: Channels, height and width of the images.
        num_classes: Number of classes, at least 2.
    """

    def __init__(
        self, layers: Sequence[int], *, width: float, input_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        super().__init__()
        channels, height, side = input_shape
        parts: list[nn.Module] = []
        for stage, count in enumerate(layers):
            out = 16 * 2**stage
            for _ in range(count):
                parts.append(PosterLayer(channels, max(2, round(out * width / 4) * 2), out))
                channels = out
            parts.append(nn.MaxPool2d(2))
            height, side = height // 2, side // 2
        self.layers = nn.Sequential(*parts)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * height * side, 128), nn.ReLU(), nn.Linear(128, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images x[B, C, H, W] → logits [B, classes]."""
        return self.head(self.layers(x))  # type: ignore[no-any-return]
