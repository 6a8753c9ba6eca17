"""A layer of one kernel call a pass: the fused form by `graftwork.kernels`, forward and backward.

Convolutions stay PyTorch's; what lies between them (statistics, normalisation, activation, residual, pooling, and
the way back through them) are the passes of the kernels. Each volume is normalised and activated straight into its
place among the layer's hidden channels, so nothing is concatenated or cut apart.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from graftwork.execution._arrange import Arrangement, Convolutions
from graftwork.execution._ops import Statistics, join
from graftwork.kernels import EPSILON, Kernels
from graftwork.typing import Activation, BlockId

__all__ = [
    "by_statistics",
    "can_run",
    "get_kernels",
    "max_pool",
    "run_convolutions",
    "set_kernels",
    "train_convolutions",
    "using_kernels",
    "write_statistics",
]

_active: list[Kernels] = []


def set_kernels(kernels: Kernels | None) -> None:
    """Run fused layers by these kernels wherever they can (``None``: by PyTorch's operations). Of the whole process."""
    _active[:] = [] if kernels is None else [kernels]


def get_kernels() -> Kernels | None:
    """The kernels that `set_kernels` chose last; ``None`` at first."""
    return _active[0] if _active else None


@contextmanager
def using_kernels(kernels: Kernels | None) -> Iterator[None]:
    """`set_kernels` for the time of a ``with`` block; then as before."""
    before = get_kernels()
    set_kernels(kernels)
    try:
        yield
    finally:
        set_kernels(before)


def _compute_type(x: Tensor) -> torch.dtype:
    """What products run in: autocast's type, or the input's."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def can_run(x: Tensor) -> bool:
    """Whether there are kernels, and ``x`` [B, C, H, W] is of a kind that they take."""
    if not _active or type(x) not in (Tensor, nn.Parameter) or x.device.type != "cpu" or x.numel() == 0:
        return False  # other classes are tracers: they have no memory to walk through
    return Kernels.supports(_compute_type(x))


Norming = Callable[[Tensor, slice], Tensor]
"""The table by which one volume is normalised (see `Kernels.normaliser`): of it, and which hidden channels it makes."""


def _dense(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in this type, dense and channels-last."""
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def _conv(x: Tensor, filters: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    return _dense(F.conv2d(x, filters, bias, padding=padding), x.dtype)


def _conv_backward(
    gradient: Tensor, x: Tensor, filters: Tensor, padding: int, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if not any(wanted):
        return None, None, None
    found: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
        gradient, x, filters, [len(filters)] if wanted[2] else None,
        [1, 1], [padding, padding], [1, 1], False, [0, 0], 1, list(wanted),
    )  # fmt: skip
    return found


@dataclass(frozen=True, slots=True)
class _Run:
    """What a forward pass leaves for the way back; filters in the type of the products."""

    source: Tensor
    filters: list[Tensor]
    mixing: Tensor | None
    volumes: list[Tensor]
    tables: list[Tensor]
    hidden: Tensor
    out: Tensor


def _forward(
    kernels: Kernels,
    x: Tensor,
    layer: Convolutions,
    paddings: Sequence[int],
    activation: Activation,
    norming: Norming,
) -> _Run:
    source = _dense(x, _compute_type(x))
    filters = [one.to(source.dtype) for one in layer.filters]
    volumes = [_conv(source, one, None, pad) for one, pad in zip(filters, paddings, strict=True)]
    images, _, height, breadth = volumes[0].shape
    shape = (images, len(layer.bias), height, breadth)
    hidden = torch.empty(shape, dtype=source.dtype, memory_format=torch.channels_last)
    tables, first = [], 0
    for volume in volumes:
        part = slice(first, first + volume.shape[1])
        tables.append(norming(volume, part))
        kernels.forward(volume, tables[-1], activation, hidden, first)
        first = part.stop
    if layer.mixing is None or layer.mixing_bias is None:
        return _Run(source, filters, None, volumes, tables, hidden, hidden)
    mixing = layer.mixing.to(source.dtype)
    out = _conv(hidden, mixing, layer.mixing_bias.to(source.dtype), 0)
    kernels.add(out, source)
    return _Run(source, filters, mixing, volumes, tables, hidden, out)


def _by_batch(kernels: Kernels, layer: Convolutions) -> Norming:
    """Batch statistics; or none."""

    def norming(volume: Tensor, part: slice) -> Tensor:
        if layer.weight is not None:
            return kernels.normaliser(volume, layer.weight[part], layer.bias[part])
        ones = torch.ones(volume.shape[1])
        return torch.stack((torch.zeros_like(ones), ones, ones, layer.bias[part]))

    return norming


class _Trained(torch.autograd.Function):
    """`_forward` of blocks by batch statistics, and the way back to their tensors."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernels: Kernels, activation: Activation, plan: Arrangement, *tensors: Tensor
    ) -> Tensor:
        layer = plan.assemble(tensors)
        run = _forward(kernels, x, layer, plan.paddings, activation, _by_batch(kernels, layer))
        ctx.kernels, ctx.activation, ctx.plan, ctx.tables, ctx.in_type = kernels, activation, plan, run.tables, x.dtype
        # the hidden volume is needed for the gradient of the mixing weights alone; as output it must not be kept twice
        hidden = None if run.mixing is None else run.hidden
        ctx.save_for_backward(run.source, hidden, layer.weight, run.mixing, *run.filters, *run.volumes)
        return run.out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        kernels, plan, saved = ctx.kernels, ctx.plan, ctx.saved_tensors
        source, hidden, weight, mixing = saved[:4]
        count = len(ctx.tables)
        filters, volumes = saved[4 : 4 + count], saved[4 + count :]
        wants_x, wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[4:]
        gradient = _dense(gradient, source.dtype)
        inner, d_mixing, d_mixing_bias = gradient, None, None
        if mixing is not None:
            found, d_mixing, d_mixing_bias = _conv_backward(gradient, hidden, mixing, 0, (True, True, True))
            assert found is not None  # it was asked for
            inner = _dense(found, source.dtype)
        d_x, by_norms, d_filters, first = None, [], [], 0
        for volume, table, one, pad, group in zip(
            volumes, ctx.tables, filters, plan.paddings, plan.groups, strict=True
        ):
            part = slice(first, first + volume.shape[1])
            scale = None if weight is None else weight[part]
            d, by_norm = kernels.backward(volume, inner, first, table, ctx.activation, scale)
            by_norms.append(by_norm)
            by_x, by_filters, _ = _conv_backward(d, source, one, pad, (wants_x, any(wanted[group]), False))
            d_filters.append(_wide(by_filters))
            d_x = _sum(kernels, d_x, by_x)
            first = part.stop
        if mixing is not None and d_x is not None:
            kernels.add(d_x, gradient)
        d_weight, d_bias = join(by_norms, 1)
        if weight is None:
            d_weight = None
        parted = plan.take_apart(d_filters, d_weight, d_bias, _wide(d_mixing), _wide(d_mixing_bias))
        return None if d_x is None else d_x.to(ctx.in_type), None, None, None, *parted


def _wide(gradient: Tensor | None) -> Tensor | None:
    """In float32, as weights are; autograd turns it into another type of theirs."""
    return None if gradient is None else gradient.float()


def _sum(kernels: Kernels, total: Tensor | None, more: Tensor | None) -> Tensor | None:
    """Their sum, in the first one's memory; ``None`` is nothing."""
    if more is None:
        return total
    more = _dense(more, more.dtype)
    if total is not None:
        kernels.add(total, more)
    return more if total is None else total


def train_convolutions(x: Tensor, plan: Arrangement, tensors: Sequence[Tensor], activation: Activation) -> Tensor:
    """Run a layer or a stem by the kernels and the statistics of the batch, if it has a norm; gradients flow.

    Args:
        x: [B, C, H, W], for which `can_run` holds.
        plan: Where its blocks stand.
        tensors: Of the blocks, as the plan gives them.
        activation: σ.

    Returns:
        The output [B, out, H, W].
    """
    out: Tensor = _Trained.apply(x, _active[0], activation, plan, *tensors)  # type: ignore[no-untyped-call]
    return out


def run_convolutions(
    x: Tensor,
    layer: Convolutions,
    paddings: Sequence[int],
    activation: Activation,
    norming: Norming | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Run a layer or a stem by the kernels; gradients do not flow.

    Args:
        x: [B, C, H, W], for which `can_run` holds.
        layer: Its tensors.
        paddings: Of the convolution of each kernel size.
        activation: σ.
        norming: How volumes are normalised. ``None``: by the batch, or not at all where there is no norm.

    Returns:
        The output [B, out, H, W], and the table of each volume.
    """
    run = _forward(_active[0], x, layer, paddings, activation, norming or _by_batch(_active[0], layer))
    return run.out, run.tables


def by_statistics(weight: Tensor, bias: Tensor, ids: Sequence[BlockId], statistics: Statistics) -> Norming:
    """Normalise by running statistics of some entries, whose channels lie side by side."""
    mean, variance = (join([statistics[block_id][number] for block_id in ids]).float() for number in (0, 1))
    scale = weight * torch.rsqrt(variance + EPSILON)
    table = torch.stack((mean, variance, scale, bias - mean * scale))
    return lambda volume, part: table[:, part].contiguous()


def write_statistics(
    statistics: Statistics, ids: Sequence[BlockId], widths: Sequence[int], tables: Sequence[Tensor], *, num_values: int
) -> None:
    """Store what a pass found: mean and unbiased variance of each entry, over so many values a channel."""
    mean, variance, *_ = join(tables, 1)
    variance = variance * (num_values / max(1, num_values - 1))
    pieces = zip(ids, torch.split(mean, list(widths)), torch.split(variance, list(widths)), strict=True)
    statistics.update({block_id: (m.clone(), v.clone()) for block_id, m, v in pieces})


class _Pooled(torch.autograd.Function):
    """2×2 max-pool."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Kernels) -> Tensor:
        out, which = kernels.pool(x)
        ctx.kernels, ctx.shape = kernels, x.shape
        ctx.save_for_backward(which)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        (which,) = ctx.saved_tensors
        return ctx.kernels.unpool(_dense(gradient, gradient.dtype), which, ctx.shape), None


def max_pool(x: Tensor) -> Tensor:
    """2×2 max-pool of a tensor for which `can_run` holds and whose own type the kernels take."""
    out: Tensor = _Pooled.apply(_dense(x, x.dtype), _active[0])  # type: ignore[no-untyped-call]
    return out
