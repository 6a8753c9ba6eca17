"""Own implementations of convolutional networks: the structure of the papers, at narrow widths."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_norm(
    inputs: int, outputs: int, size: int | tuple[int, int] = 1, **options: int | tuple[int, int]
) -> nn.Module:
    """Convolution, batch norm, ReLU; same padding."""
    padding = size // 2 if isinstance(size, int) else (size[0] // 2, size[1] // 2)
    options = {"padding": padding, **options}
    conv = nn.Conv2d(inputs, outputs, size, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions (He et al. 2016, ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 with four times the channels at the end (ResNet-50 and deeper)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = shortcut(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + self.downsample(x))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """ResNet (He et al. 2016): 7×7 stem, four stages.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: Blocks of each stage.
        width: Channels of the first stage (64 in the paper).
        classes: Outputs.
    """

    def __init__(self, block: type[nn.Module], depths: tuple[int, ...], width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs, stages = width, []
        for stage, depth in enumerate(depths):
            blocks = []
            for position in range(depth):
                stride = 2 if stage and not position else 1
                blocks.append(block(inputs, width << stage, stride))
                inputs = (width << stage) * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layers = nn.ModuleList(stages)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for layer in self.layers:
            x = layer(x)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class DenseLayer(nn.Module):
    """BN-ReLU-1×1-BN-ReLU-3×3; the new features are concatenated to all earlier ones."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        y = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(y)))


class DenseBlock(nn.Module):
    """Layers that each read everything before them."""

    def __init__(self, inputs: int, depth: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(inputs + i * growth, growth) for i in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """DenseNet-121 (Huang et al. 2017): dense blocks of 6, 12, 24 and 16 layers, transitions that halve."""

    def __init__(self, depths: tuple[int, ...] = (6, 12, 24, 16), growth: int = 4, classes: int = 10) -> None:
        super().__init__()
        channels = 2 * growth
        self.stem = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for stage, depth in enumerate(depths):
            self.blocks.append(DenseBlock(channels, depth, growth))
            channels += depth * growth
            if stage + 1 < len(depths):
                self.transitions.append(
                    nn.Sequential(
                        nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1, bias=False)
                    )
                )
                channels //= 2
        self.last = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 3, 2, 1)
        for stage, block in enumerate(self.blocks):
            x = block(x)
            if stage < len(self.transitions):
                x = F.avg_pool2d(self.transitions[stage](x), 2)
        return self.classifier(F.relu(self.last(x)).mean((2, 3)))


class VGG(nn.Module):
    """VGG-16 with batch norm (Simonyan & Zisserman 2015): flattened 7×7 maps (here 2×2), three linear layers."""

    def __init__(self, width: int = 4, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage, depth in enumerate((2, 2, 3, 3, 3)):
            for _ in range(depth):
                outputs = width << min(stage, 3)
                layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                channels = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(channels * 4, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 32), nn.ReLU(), nn.Dropout(),
            nn.Linear(32, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class InceptionBlock(nn.Module):
    """Four branches side by side: 1×1, 1×1-3×3, 1×1-5×5, pool-1×1 (Szegedy et al. 2015)."""

    def __init__(self, inputs: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pool = widths
        self.one = conv_norm(inputs, one)
        self.three = nn.Sequential(conv_norm(inputs, reduce3), conv_norm(reduce3, three, 3))
        self.five = nn.Sequential(conv_norm(inputs, reduce5), conv_norm(reduce5, five, 5))
        self.pool = conv_norm(inputs, pool)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(F.max_pool2d(x, 3, 1, 1))
        return torch.cat([self.one(x), self.three(x), self.five(x), pooled], 1)


class FactorizedBlock(nn.Module):
    """Inception v3: 7×7 as 1×7 and 7×1, once and twice in a row (Szegedy et al. 2016)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.one = conv_norm(inputs, width)
        self.seven = nn.Sequential(
            conv_norm(inputs, width), conv_norm(width, width, (1, 7)), conv_norm(width, width, (7, 1))
        )
        self.longer = nn.Sequential(
            conv_norm(inputs, width), conv_norm(width, width, (7, 1)), conv_norm(width, width, (1, 7)),
            conv_norm(width, width, (7, 1)), conv_norm(width, width, (1, 7)),
        )  # fmt: skip
        self.pool = conv_norm(inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(F.avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.one(x), self.seven(x), self.longer(x), pooled], 1)


class Inception(nn.Module):
    """GoogLeNet blocks, then v3's factorized ones, with an auxiliary classifier that runs in training only."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, 6, 3, stride=2), conv_norm(6, 6, 1), conv_norm(6, 12, 3))
        self.block1 = InceptionBlock(12, (4, 4, 8, 2, 4, 4))
        self.block2 = InceptionBlock(20, (6, 4, 8, 2, 4, 4))
        self.block3 = FactorizedBlock(22, 6)
        self.block4 = FactorizedBlock(24, 6)
        self.auxiliary = nn.Sequential(conv_norm(24, 8), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, classes))
        self.fc = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.max_pool2d(self.stem(x), 3, 2, 1)
        x = F.max_pool2d(self.block2(self.block1(x)), 3, 2, 1)
        x = self.block3(x)
        side = self.auxiliary(x) if self.training else None
        y = self.fc(self.block4(x).mean((2, 3)))
        return y if side is None else (y, side)
