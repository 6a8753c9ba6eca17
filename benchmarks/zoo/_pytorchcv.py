"""Families of `pytorchcv`: its own classes and functions, narrow where the published width is large."""

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from zoo._architecture import Architecture, images


def _make(module: str, name: str, **options: Any) -> Callable[[], nn.Module]:
    """Build by a function or class of one of the package's files (the package's front page needs more packages)."""

    def build() -> nn.Module:
        model = getattr(importlib.import_module(f"pytorchcv.models.{module}"), name)(**options)
        # The package averages over the 7×7 maps of 224×224 images; ours are smaller.
        for owner in (model.features, getattr(model, "output", None)):
            for child, part in list(owner.named_children()) if owner is not None else []:
                if isinstance(part, nn.AvgPool2d):
                    setattr(owner, child, nn.AdaptiveAvgPool2d(1))
        return model

    return build


_UNITS = ("features.init_block", "features.stage*", "features.stage*.unit*")


def _family(
    name: str,
    module: str,
    maker: str,
    *,
    size: int = 64,
    output: str = "output",
    deepen: tuple[str, ...] = _UNITS,
    **options: Any,
) -> Architecture:
    """Every convolution of these networks is widenable but the one that makes the classes."""
    return Architecture(
        name=f"pytorchcv {name}",
        package="pytorchcv",
        build=_make(module, maker, **options),
        batch=images(size),
        rules=((output, "output"), ("**", "widen")),
        deepen=deepen,
    )


_FOUR = [[8, 8], [16, 16], [24, 24], [32, 32]]

PYTORCHCV = (
    _family(
        "resnet",
        "resnet",
        "ResNet",
        channels=_FOUR,
        init_block_channels=8,
        bottleneck=True,
        conv1_stride=True,
        num_classes=10,
    ),
    _family("preresnet-20", "preresnet_cifar", "preresnet20_cifar10", size=32),
    _family("densenet-40", "densenet_cifar", "densenet40_k12_cifar10", size=32),
    _family(
        "vgg",
        "vgg",
        "VGG",
        size=224,
        output="output.fc3",
        channels=[[4], [6], [8, 8], [8, 8], [8, 8]],
        use_bn=True,
        bias=False,
        num_classes=10,
        deepen=("features.stage*", "features.stage*.unit*"),
    ),
    _family("mobilenetv2", "mobilenetv2", "mobilenetv2_wd4", num_classes=10),
    _family("mobilenetv3-small", "mobilenetv3", "mobilenetv3_small_w7d20", output="output.conv2", num_classes=10),
    _family("shufflenet-g3", "shufflenet", "shufflenet_g3_wd4", num_classes=10),
    _family("shufflenetv2", "shufflenetv2", "shufflenetv2_wd2", num_classes=10),
    _family("efficientnet-b0", "efficientnet", "efficientnet_b0", output="output.fc", num_classes=10),
    _family("squeezenet", "squeezenet", "squeezenet_v1_1", output="output.final_conv", num_classes=10),
    _family("seresnet-10", "seresnet", "seresnet10", num_classes=10),
    _family("resnext-20", "resnext_cifar", "resnext20_16x4d_cifar10", size=32),
    _family("dpn-68", "dpn", "dpn68", output="output.classifier", num_classes=10),
    _family(
        "darknet-tiny",
        "darknet",
        "darknet_tiny",
        output="output.final_conv",
        num_classes=10,
        deepen=("features.stage*", "features.stage*.unit*"),
    ),
    _family(
        "ghostnet", "ghostnet", "get_ghostnet", output="output.conv2", num_classes=10, width_scale=0.5, model_name=None
    ),
    _family("mnasnet-small", "mnasnet", "mnasnet_small", num_classes=10),
)
