"""Own implementations: U-Net, EfficientNet-B0, ShuffleNet v2 and MLP-Mixer, at narrow widths."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DoubleConv(nn.Sequential):
    """Two 3×3 convolutions with batch norm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        )  # fmt: skip


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015): four levels, transposed convolutions up, skips by concatenation."""

    def __init__(self, width: int = 4, levels: int = 4, classes: int = 2) -> None:
        super().__init__()
        widths = [width << level for level in range(levels)]
        self.downs = nn.ModuleList(DoubleConv(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.middle = DoubleConv(widths[-1], 2 * widths[-1])
        self.ups = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in reversed(widths))
        self.joins = nn.ModuleList(DoubleConv(2 * w, w) for w in reversed(widths))
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.downs:
            skips.append(down(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.middle(x)
        for up, join in zip(self.ups, self.joins, strict=True):
            x = join(torch.cat([skips.pop(), up(x)], 1))
        return self.out(x)


class SqueezeExcite(nn.Module):
    """A gate for every channel from the mean of all of them."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.silu(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return x * torch.sigmoid(gate)


class InvertedBottleneck(nn.Module):
    """Expand, depthwise, squeeze-excitation, project; a residual where shapes allow."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, size: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expand = nn.Sequential()
        if expansion > 1:
            self.expand = nn.Sequential(nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.SiLU())
        self.depthwise = nn.Conv2d(hidden, hidden, size, stride, size // 2, groups=hidden, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.gate = SqueezeExcite(hidden, max(1, inputs // 4) + 1)
        self.project = nn.Sequential(nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(x)
        y = self.project(self.gate(F.silu(self.norm(self.depthwise(y)))))
        return x + y if self.residual else y


class EfficientNet(nn.Module):
    """EfficientNet-B0 (Tan & Le 2019): its seven stages, a quarter as wide."""

    STAGES = ((1, 4, 1, 3, 1), (6, 6, 2, 3, 2), (6, 10, 2, 5, 2), (6, 20, 3, 3, 2), (6, 28, 3, 5, 1), (6, 48, 4, 5, 1),
              (6, 80, 1, 3, 1))  # fmt: skip

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        inputs, blocks = 8, []
        for expansion, outputs, depth, size, first_stride in self.STAGES:
            for position in range(depth):
                stride = 1 if position else first_stride
                blocks.append(InvertedBottleneck(inputs, outputs, expansion=expansion, size=size, stride=stride))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Conv2d(inputs, 96, 1, bias=False), nn.BatchNorm2d(96), nn.SiLU())
        self.fc = nn.Linear(96, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        return self.fc(F.dropout(x.mean((2, 3)), 0.0, self.training))


class ShuffleUnit(nn.Module):
    """ShuffleNet v2's unit (Ma et al. 2018): split in halves, work on one, concatenate, shuffle."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.stride = stride
        self.left = nn.Sequential()
        if stride == 2:
            self.left = nn.Sequential(
                nn.Conv2d(inputs, inputs, 3, 2, 1, groups=inputs, bias=False), nn.BatchNorm2d(inputs),
                nn.Conv2d(inputs, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True),
            )  # fmt: skip
        start = inputs if stride == 2 else half
        self.right = nn.Sequential(
            nn.Conv2d(start, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False), nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1) if self.stride == 1 else (x, x)
        y = torch.cat([self.left(left), self.right(right)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleNet(nn.Module):
    """ShuffleNet v2: stages of 4, 8 and 4 units."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64), classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        inputs, units = 8, []
        for width, depth in zip(widths, (4, 8, 4), strict=True):
            units += [ShuffleUnit(inputs if i == 0 else width, width, 1 if i else 2) for i in range(depth)]
            inputs = width
        self.units = nn.Sequential(*units)
        self.head = nn.Sequential(nn.Conv2d(inputs, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.head(self.units(self.stem(x))).mean((2, 3)))


class MixerBlock(nn.Module):
    """One MLP across patches, one across channels (Tolstikhin et al. 2021)."""

    def __init__(self, patches: int, width: int, across: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(patches, across), nn.GELU(), nn.Linear(across, patches))
        self.channels = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer over 16 patches."""

    def __init__(self, width: int = 16, depth: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.blocks = nn.Sequential(*(MixerBlock(16, width, 12, 32) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.fc(self.norm(self.blocks(x)).mean(1))
