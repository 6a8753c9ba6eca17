"""Small models of the kinds that users bring: each with a batch, and the sites a person would widen."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VGG(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(8 * 2 * 2, 10), nn.ReLU(), nn.Dropout(0.5), nn.Linear(10, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.layer1 = nn.Sequential(BasicBlock(6, 6, 1), BasicBlock(6, 6, 1))
        self.layer2 = nn.Sequential(BasicBlock(6, 10, 2))
        self.fc = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class SqueezeExcite(nn.Module):
    """Inverted bottleneck with a depthwise convolution and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.expand = nn.Conv2d(6, 12, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, 1, 1, groups=12, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.reduce = nn.Conv2d(12, 4, 1)
        self.gate = nn.Conv2d(4, 12, 1)
        self.project = nn.Conv2d(12, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.silu(self.bn2(self.depthwise(F.silu(self.bn1(self.expand(x))))))
        gate = torch.sigmoid(self.gate(F.silu(self.reduce(y.mean((2, 3), keepdim=True)))))
        return self.head((x + self.project(y * gate)).mean((2, 3)))


class DenseConcat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 5, 3, padding=1)
        self.bn = nn.BatchNorm2d(9)
        self.c = nn.Conv2d(9, 6, 3, padding=1)
        self.head = nn.Linear(15 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = F.relu(self.bn(torch.cat([x, self.b(x)], 1)))
        x = torch.cat([x, self.c(x)], 1)
        return self.head(F.adaptive_avg_pool2d(x, 3).flatten(1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, padding=1)
        self.middle = nn.Conv2d(4, 6, 3, padding=1)
        self.norm = nn.InstanceNorm2d(6, affine=True)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.out = nn.Conv2d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.leaky_relu(self.down(x))
        y = self.norm(F.gelu(self.middle(F.max_pool2d(skip, 2))))
        return self.out(torch.cat([self.up(y), skip], dim=1))


class Shuffle(nn.Module):
    """Grouped convolutions, channel shuffle, split in halves, group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.branch = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.norm = nn.GroupNorm(2, 8)
        self.act = nn.PReLU(8)
        self.tail = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, dim=1)
        y = torch.cat([left, F.relu(self.branch(right))], dim=1)
        b, c, h, w = y.shape
        y = y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.head(self.tail(self.act(self.norm(y))).amax((2, 3)))


class Attention(nn.Module):
    """Pre-norm transformer block with user-written attention over separate projections."""

    def __init__(self, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = width // heads
        self.embed = nn.Embedding(11, width)
        self.position = nn.Parameter(torch.randn(1, 16, width) * 0.1)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)
        self.up, self.gate = nn.Linear(width, 20), nn.Linear(width, 20)
        self.down = nn.Linear(20, width)
        self.head = nn.Linear(width, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        b, t = tokens.shape
        x = self.embed(tokens) + self.position[:, :t]
        y = self.norm1(x)
        q, k, v = (f(y).view(b, t, self.heads, self.head_width).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, -1))
        y = self.norm2(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.head(x)


class Packed(nn.Module):
    """Packed qkv with explicit scores, and a fused gate split with chunk."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.fused = nn.Linear(width, 24)
        self.down = nn.Linear(12, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1) / 2.0).softmax(-1)
        x = x + self.proj((scores @ v).transpose(1, 2).reshape(b, t, -1))
        value, gate = self.fused(self.norm(x)).chunk(2, dim=-1)
        return x + self.down(value * F.gelu(gate))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 5)
        self.lstm = nn.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(12, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        y, _ = self.lstm(self.embed(tokens))
        y, _ = self.gru(y)
        return self.head(y[:, -1])


class Direct(nn.Module):
    """Parameters used directly, a weight used twice, a square recurrent weight."""

    def __init__(self) -> None:
        super().__init__()
        self.w_in = nn.Parameter(torch.randn(7, 5) * 0.4)
        self.shared = nn.Linear(5, 6)
        self.back = nn.Parameter(torch.randn(6, 5) * 0.4)
        self.scale = nn.Parameter(torch.rand(5) + 0.5)
        self.square = nn.Parameter(torch.randn(6, 6) * 0.2)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(x @ self.w_in) * self.scale
        a = self.shared(h)
        b = self.shared(torch.relu(a @ self.back) * self.scale)
        state = torch.tanh(a + b)
        for _ in range(3):
            state = torch.tanh(torch.einsum("bi,ji->bj", state, self.square) + a)
        return self.head(state)


class Signal(nn.Module):
    """One- and three-dimensional convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv1d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm1d(6)
        self.two = nn.ConvTranspose1d(6, 4, 3, groups=2, padding=1)
        self.three = nn.Conv3d(1, 4, 2)
        self.norm3 = nn.BatchNorm3d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(F.elu(self.norm(self.one(x))))
        z = F.relu(self.norm3(self.three(y[:, None, :, :, None].expand(-1, -1, -1, -1, 3))))
        return self.head(z.mean((2, 3, 4)))


@dataclass(frozen=True)
class Case:
    """One model under test.

    Attributes:
        name: Name.
        build: Makes the model.
        batch: Makes a batch of the given size.
        widenable: Sites that must be widenable.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[int, torch.Generator], Any]
    widenable: tuple[str, ...]
    refused: tuple[str, ...] = field(default=())


def _images(size: int) -> Callable[[int, torch.Generator], Tensor]:
    return lambda n, g: torch.randn(n, 3, size, size, generator=g, dtype=torch.float64)


def _tokens(vocabulary: int, length: int) -> Callable[[int, torch.Generator], Tensor]:
    return lambda n, g: torch.randint(vocabulary, (n, length), generator=g)


def _vectors(*shape: int) -> Callable[[int, torch.Generator], Tensor]:
    return lambda n, g: torch.randn(n, *shape, generator=g, dtype=torch.float64)


CASES = (
    Case(
        "mlp",
        lambda: nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)),
        _vectors(5),
        ("0", "2"),
        ("4",),
    ),
    Case("vgg", VGG, _images(8), ("features.0", "features.4", "classifier.0"), ("classifier.3",)),
    Case(
        "resnet",
        ResNet,
        _images(8),
        ("conv1", "layer1.0.conv1", "layer1.1.conv2", "layer2.0.conv1", "layer2.0.conv2"),
        ("fc",),
    ),
    Case(
        "squeeze-excite",
        SqueezeExcite,
        _images(8),
        ("stem", "expand", "depthwise", "reduce", "gate", "project"),
    ),
    Case("dense", DenseConcat, _images(6), ("a", "b", "c"), ("head",)),
    Case("unet", UNet, _images(8), ("down", "middle", "up"), ("out",)),
    Case("shuffle", Shuffle, _images(6), ("stem", "branch", "tail")),
    Case(
        "attention",
        Attention,
        _tokens(11, 6),
        ("q", "k", "v", "up", "gate"),
        ("embed", "proj", "down", "head"),
    ),
    Case("packed", Packed, _vectors(5, 8), ("qkv", "fused"), ("proj",)),
    Case("recurrent", Recurrent, _tokens(9, 5), ("embed", "lstm", "gru"), ("head",)),
    Case("direct", Direct, _vectors(7), ("w_in", "shared", "back", "square")),
    Case("signal", Signal, _vectors(2, 6), ("one", "three"), ("two", "head")),
)


def scrambled(case: Case, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Build a model with perturbed parameters and statistics: a wrong growth can't hide in a fresh one."""
    torch.manual_seed(seed)
    model = case.build().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if "var" in name:
                buffer.copy_(torch.rand_like(buffer) + 0.5)
            elif buffer.is_floating_point():
                buffer.add_(0.2 * torch.randn_like(buffer))
    return model


def batch_of(case: Case, size: int = 4, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return a batch for a case."""
    batch = case.batch(size, torch.Generator().manual_seed(seed))
    return batch.to(dtype) if batch.is_floating_point() else batch
