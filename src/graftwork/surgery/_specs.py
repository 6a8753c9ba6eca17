"""What a new block is made of: its sizes, and the norm and activation of its neighborhood."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._block import R2RBlock
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._space import atoms, size_of

NORMS = ("batch", "instance", "group", "layer", "rms", "none")
"""Kinds of norm that a block may have."""

_ACTIVATIONS = (
    *(nn.ReLU, nn.GELU, nn.SiLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.Hardswish, nn.Mish, nn.Tanh, nn.SELU),
    *(nn.CELU, nn.Softplus, nn.Sigmoid),
)
_BY_NAME = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardtanh": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "hardswish": nn.Hardswish,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}


@dataclass(frozen=True)
class BlockSpec:
    """Everything that makes an R2R block but its weights; plain data.

    Attributes:
        channels: Channels of input and output.
        hidden: Hidden channels of both halves.
        spatial: Spatial dimensions, 0 for a linear block.
        kernel_size: Size of the convolution.
        norm: Kind of norm.
        groups: Groups of a half for ``norm="group"``.
        activation: Class name in ``torch.nn``.
    """

    channels: int
    hidden: int
    spatial: int
    kernel_size: int = 3
    norm: str = "none"
    groups: int = 1
    activation: str = "ReLU"

    def __post_init__(self) -> None:
        sizes = (self.channels, self.hidden, self.kernel_size, self.groups)  # a log may hold anything
        if not all(type(size) is int and size > 0 for size in sizes) or self.spatial not in (0, 1, 2, 3):
            raise SurgeryError(f"a new block: expected sizes > 0 and at most 3 spatial dimensions, got {self!r}")
        function = getattr(nn, self.activation, None)
        if getattr(function, "__module__", "") != nn.ReLU.__module__:
            raise SurgeryError(f"a new block: expected an activation of torch.nn, got {self.activation!r}")

    @property
    def num_weights(self) -> int:
        """Number of weights of its two maps."""
        return self.channels * self.hidden * (int(self.kernel_size**self.spatial) + 1)

    def build(self) -> R2RBlock:
        """Return the block with zero weights."""
        return R2RBlock(
            self.channels,
            self.hidden,
            spatial=self.spatial,
            kernel_size=self.kernel_size,
            norm=self.norm,
            groups=self.groups,
            activation=getattr(nn, self.activation)(),
        )


@dataclass(frozen=True)
class LikeSpec:
    """A new block that is a fresh copy of another one.

    Attributes:
        like: Path of the block that was copied.
    """

    like: str


def around(model: nn.Module, path: str) -> Iterator[nn.Module]:
    """The module at a path, then its parents, innermost first."""
    while True:
        yield model.get_submodule(path)
        if not path:
            return
        path = path.rpartition(".")[0]


def block_spec(
    graph: ChannelGraph,
    after: str,
    *,
    kernel_size: int,
    hidden: int | None,
    norm: str | None,
    activation: str | None,
) -> tuple[BlockSpec, torch.dtype]:
    """Return what a block behind a module is made of, and the data type of its tensors.

    Args:
        graph: The channel graph of the model.
        after: Path of the module.
        kernel_size: Odd size of the convolution.
        hidden: Hidden channels of both halves together, even. None takes the number of channels.
        norm: Kind of norm. None takes what the neighborhood uses.
        activation: Class name in ``torch.nn``. None takes what the neighborhood uses.

    Raises:
        SurgeryError: The output of the module is no tensor of channels.
    """
    if after not in graph.trace.module_outputs:
        raise SurgeryError(
            f"{after!r} can't be deepened: the example input does not run it, or its output is not one floating-point "
            "tensor; pick the module around it"
        )
    dims, dtype = graph.trace.module_outputs[after]
    if after in graph.trace.varying:
        raise SurgeryError(
            f"{after!r} can't be deepened: it runs several times with outputs of different shapes, so one block can't "
            "follow it everywhere; pick the module around it"
        )
    if len(dims) < 2 or len(dims) > 5:
        raise SurgeryError(
            f"{after!r} can't be deepened: expected an output of 2 to 5 dimensions, got {len(dims)}; pick another place"
        )
    spatial = _spatial(graph, dims)
    channels = size_of(dims[1 if spatial else -1])
    width = hidden if hidden is not None else channels + channels % 2
    kind, groups = _norm_like(graph.model, after, spatial) if norm is None else (norm, 1)
    if norm is None and spatial and all(size_of(expr) == 1 for expr in dims[2:]):
        kind, kernel_size = "none", 1  # one pixel: a gate or a head; no statistics, no neighbors
    if kind == "group":
        groups = math.gcd(groups, width // 2)
    function = activation if activation is not None else _activation_like(graph, after)
    return BlockSpec(channels, width, spatial, kernel_size if spatial else 1, kind, groups, function), dtype


def _spatial(graph: ChannelGraph, dims: list[Any]) -> int:
    """Channels are the dimension that parameters share; dimension 1 of images, the last one of sequences."""
    owned = {id(var) for spaces in graph.trace.spaces.values() for expr in spaces for var in atoms(expr)}
    holds = [any(id(var) in owned for var in atoms(expr)) for expr in dims]
    if len(dims) == 2:
        return 0
    if holds[-1] and not holds[1]:
        return 0
    if holds[1] and not holds[-1]:
        return len(dims) - 2
    return len(dims) - 2 if len(dims) >= 4 else 0


def _norm_like(model: nn.Module, after: str, spatial: int) -> tuple[str, int]:
    for module in around(model, after):
        for child in module.modules():
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and spatial:  # noqa: SLF001
                return "batch", 1
            if isinstance(child, nn.modules.instancenorm._InstanceNorm) and spatial:  # noqa: SLF001
                return "instance", 1
            if isinstance(child, nn.GroupNorm) and spatial:
                return "group", child.num_groups
            if isinstance(child, nn.LayerNorm) and not spatial:
                return "layer", 1
            if "RMSNorm" in type(child).__name__ and not spatial:
                return "rms", 1
    return "none", 1


def _activation_like(graph: ChannelGraph, after: str) -> str:
    for module in around(graph.model, after):
        for child in module.modules():
            if isinstance(child, _ACTIVATIONS):
                return next(kind.__name__ for kind in _ACTIVATIONS if isinstance(child, kind))
    for name in reversed(graph.trace.activations):
        found = _BY_NAME.get(name.rstrip("_"))
        if found is not None and name not in {"sigmoid", "tanh"}:
            return found.__name__
    return "ReLU"
