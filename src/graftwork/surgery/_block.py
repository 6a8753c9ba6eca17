"""The R2R block that deepening inserts, and how it is hung onto a module without renaming anything."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftwork.numerics import matched_uniform, twin_columns, twin_rows

__all__ = ["R2RBlock", "graft", "graft_class", "ungraft"]

_CONVS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
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
        y = self.before(x)
        parts = [self._filter(y, slice(0, half)), self._filter(y, slice(half, None))]
        channel = 1 if self.spatial else -1
        hidden = self.activation(self.norm(torch.cat(parts, dim=channel)))
        # Equal numbers at equal alignment: otherwise the two products may round differently.
        first, second = (part.contiguous() for part in hidden.split(half, dim=channel))
        z = self._mix(first, self.mix[:, :half].clone()) + self._mix(second, self.mix[:, half:].clone())
        return x + z

    def _filter(self, x: Tensor, rows: slice) -> Tensor:
        weight, bias = self.weight[rows].clone(), self.bias[rows].clone()
        if self.spatial == 0:
            return F.linear(x, weight, bias)
        return _CONVS[self.spatial](x, weight, bias, padding=self.padding)

    def _mix(self, hidden: Tensor, beta: Tensor) -> Tensor:
        return F.linear(hidden, beta) if self.spatial == 0 else _CONVS[self.spatial](hidden, beta)

    def extra_repr(self) -> str:
        """Return the sizes, for ``print(model)``."""
        taps = "×".join(map(str, self.weight.shape[2:])) or "linear"
        return f"{self.weight.shape[1]}, hidden={self.weight.shape[0]}, {taps}"


def default_scales(block: R2RBlock) -> tuple[float, float]:
    """Return LeCun scales for W and β, where the model has nothing to match."""
    fan = math.prod(block.weight.shape[1:])
    return math.sqrt(1.0 / fan), math.sqrt(1.0 / block.mix.shape[1])


def _grafted_forward(module: Any, output: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    for name in module.graft_names:
        block = module.get_submodule(name)
        first = output[0] if isinstance(output, (tuple, list)) else output
        if name in module.graft_like:
            result = _call_like(block, first, args, kwargs)
        else:
            result = block(first)
        if isinstance(output, (tuple, list)):
            head = result[0] if isinstance(result, (tuple, list)) else result
            output = type(output)((head, *output[1:]))
        else:
            output = result
    return output


def _call_like(block: nn.Module, first: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a copy of the module with the module's own arguments (masks), the first one replaced."""
    if args:
        return block(first, *args[1:], **kwargs)
    names = inspect.signature(type(block).forward).parameters
    name = next((name for name in names if name in kwargs), "input")
    return block(**{**kwargs, name: first})


def _remake(base: type[nn.Module]) -> nn.Module:
    kind = graft_class(base)
    return kind.__new__(kind)


_classes: dict[type[nn.Module], type[nn.Module]] = {}


def graft_class(base: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass whose forward passes its output through grafted blocks.

    Instances keep their identity, attributes, hooks and names of parameters; they can be pickled and copied.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _grafted_forward(self, base.forward(self, *args, **kwargs), args, kwargs)

    def reduce(self: Any, _protocol: Any) -> Any:
        return _remake, (base,), self.__getstate__()

    members = {
        "forward": forward,
        "__reduce_ex__": reduce,
        "__module__": base.__module__,
        "__doc__": base.__doc__,
    }
    if base not in _classes:
        _classes[base] = type(f"Grafted{base.__name__}", (base,), {**members, "grafted_from": base})
    return _classes[base]


def graft(module: nn.Module, block: nn.Module, *, like: bool = False) -> str:
    """Hang a block onto a module's output; returns the block's name among its children.

    A plain ``nn.Sequential`` gets it as its last child; any other module gets a subclass that calls it.

    Args:
        module: Module to hang it onto, changed in place.
        block: The block.
        like: Whether the block takes the module's own further arguments.
    """
    names: tuple[str, ...] = getattr(module, "graft_names", ())
    number = len([name for name in module._modules if name.startswith("graft")])  # noqa: SLF001
    name = f"graft{number}"
    if type(module).forward is not nn.Sequential.forward:
        if not hasattr(type(module), "grafted_from"):
            module.__class__ = graft_class(type(module))
        module.graft_names = (*names, name)  # type: ignore[assignment]
        module.graft_like = (*getattr(module, "graft_like", ()), *([name] if like else []))  # type: ignore[assignment]
    module.add_module(name, block)
    return name


def ungraft(module: nn.Module, name: str) -> bool:
    """Undo `graft` for the last block."""
    if name in module._modules:  # noqa: SLF001
        del module._modules[name]  # noqa: SLF001
    names = tuple(n for n in getattr(module, "graft_names", ()) if n != name)
    if hasattr(type(module), "grafted_from"):
        if names:
            module.graft_names = names  # type: ignore[assignment]
            likes = tuple(n for n in vars(module)["graft_like"] if n != name)
            module.graft_like = likes  # type: ignore[assignment]
        else:
            vars(module).pop("graft_names", None)
            vars(module).pop("graft_like", None)
            module.__class__ = type(module).grafted_from  # type: ignore[attr-defined]
    return True
