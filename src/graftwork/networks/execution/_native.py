"""A layer of one kernel call a pass: the fused form by `graftwork.networks.kernels`, forward and backward.

The convolutions that make volumes stay PyTorch's; what lies between them (statistics, normalisation, activation, the
1×1 convolution that mixes hidden channels, residual, pooling, and the way back through them) are the passes of the
kernels. Hidden channels are never all in memory: the way back computes them again, a tile of pixels at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from graftwork.networks.execution._arrange import Arrangement, Convolutions
from graftwork.networks.execution._ops import Statistics, join
from graftwork.networks.kernels import EPSILON, Kernels
from graftwork.typing import Activation, BlockId

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


def _conv(x: Tensor, filters: Tensor, padding: int) -> Tensor:
    return _dense(F.conv2d(x, filters, padding=padding), x.dtype)


def _conv_backward(
    gradient: Tensor, x: Tensor, filters: Tensor, padding: int, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients by x and by the filters, where they are wanted."""
    if not any(wanted):
        return None, None
    by_x, by_filters, _ = torch.ops.aten.convolution_backward(
        gradient, x, filters, None, [1, 1], [padding, padding], [1, 1], False, [0, 0], 1, [*wanted, False]
    )
    return by_x, by_filters


@dataclass(frozen=True, slots=True)
class _Run:
    """What a forward pass leaves for the way back: filters in the products' type, mixing float32 [out, hidden]."""

    source: Tensor
    filters: list[Tensor]
    mixing: Tensor | None
    volumes: list[Tensor]
    tables: list[Tensor]
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
    volumes = [_conv(source, one, pad) for one, pad in zip(filters, paddings, strict=True)]
    tables, first = [], 0
    for volume in volumes:
        part = slice(first, first + volume.shape[1])
        tables.append(norming(volume, part))
        first = part.stop
    if layer.mixing is None or layer.mixing_bias is None:
        out = kernels.forward(volumes[0], tables[0], activation)
        return _Run(source, filters, None, volumes, tables, out)
    mixing = layer.mixing.float().flatten(1).contiguous()
    out = kernels.mix(volumes, tables, activation, mixing, layer.mixing_bias.float(), source)
    return _Run(source, filters, mixing, volumes, tables, out)


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
        ctx.save_for_backward(run.source, layer.weight, run.mixing, *run.filters, *run.volumes)
        return run.out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        kernels, plan, saved = ctx.kernels, ctx.plan, ctx.saved_tensors
        source, weight, mixing = saved[:3]
        count = len(ctx.tables)
        filters, volumes = saved[3 : 3 + count], saved[3 + count :]
        wants_x, wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[4:]
        gradient = _dense(gradient, source.dtype)
        d_mixing, d_mixing_bias = None, None
        if mixing is None:
            d, by_norm = kernels.backward(volumes[0], gradient, ctx.tables[0], ctx.activation, weight)
            ds = [d]
        else:
            ds, by_norm, d_mixing, d_mixing_bias = kernels.mix_backward(
                volumes, ctx.tables, ctx.activation, mixing, gradient, weight
            )
        d_x, d_filters = None, []
        for d, one, pad, group in zip(ds, filters, plan.paddings, plan.groups, strict=True):
            by_x, by_filters = _conv_backward(d, source, one, pad, (wants_x, any(wanted[group])))
            d_filters.append(by_filters)  # autograd turns it into the type of the parameters
            d_x = _sum(kernels, d_x, by_x)
        if mixing is not None and d_x is not None:
            kernels.add(d_x, gradient)
        d_weight = None if weight is None else by_norm[0]
        parted = plan.take_apart(d_filters, d_weight, by_norm[1], d_mixing, d_mixing_bias)
        return None if d_x is None else d_x.to(ctx.in_type), None, None, None, *parted


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
