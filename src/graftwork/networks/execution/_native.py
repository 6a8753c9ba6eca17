"""A layer with one kernel call for each pass: the fused form by `graftwork.networks.kernels`, forward and backward.

The convolutions that make volumes stay PyTorch's. What lies between them (statistics, normalisation, activation, the
1×1 convolution that mixes hidden channels, residual, pooling, and the way back through them) is done by the passes of
the kernels. Hidden channels are never all in memory: the way back computes them again, a tile of pixels at a time.
"""

# A worked example: the layer of `_arrange` (16 → 32 channels; 3×3 blocks a and c, a 5×5 block b; 18 hidden channels) on
# x [B, 16, H, W]. Forward (`_forward`):
#
#     source     x in the products' type                                           [B, 16, H, W]
#     volumes    conv 3×3 of a and c, conv 5×5 of b                                [B, 12, H, W], [B, 6, H, W]
#     tables     mean, variance, scale, shift of hidden channels 0:12 and 12:18    [4, 12], [4, 6]
#     out        mixing [32, 18] · σ(volume · scale + shift) + bias,               [B, 32, H, W]
#                plus source on the first 16 channels; one pass (`Kernels.mix`) over tiles of pixels, so σ(…) with
#                its 18 channels exists for one tile only
#
# Backward (`_Trained.backward`), from the gradient by out [B, 32, H, W]:
#
#     ds         by the volumes, through mixing, σ and the norm (`mix_backward`)   [B, 12, H, W], [B, 6, H, W]
#                and in the same pass by norm [2, 18], mixing [32, 18, 1, 1] and mixing bias [32]
#     d_filters  by the filters                                                    [12, 16, 3, 3], [6, 16, 5, 5]
#     d_x        the sum of both convolutions' gradients by x, plus the            [B, 16, H, W]
#                residual's: the first 16 channels of the gradient
#     apart      `Arrangement.take_apart` gives blocks a, c and b what is theirs: 15 tensors

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
    """Run fused layers by these kernels where possible (``None``: by PyTorch's operations), in the whole process."""
    _active[:] = [] if kernels is None else [kernels]


def get_kernels() -> Kernels | None:
    """The kernels that `set_kernels` chose last; ``None`` before."""
    return _active[0] if _active else None


@contextmanager
def using_kernels(kernels: Kernels | None) -> Iterator[None]:
    """Set the kernels for a ``with`` block; afterwards those from before are back."""
    before = get_kernels()
    set_kernels(kernels)
    try:
        yield
    finally:
        set_kernels(before)


def _compute_type(x: Tensor) -> torch.dtype:
    """The type that products run in: autocast's, or the input's."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def can_run(x: Tensor) -> bool:
    """Whether there are kernels, and they can run on ``x`` [B, C, H, W]."""
    if not _active or type(x) not in (Tensor, nn.Parameter) or x.device.type != "cpu" or x.numel() == 0:
        return False  # other classes are tracers: they have no memory to walk through
    return Kernels.supports(_compute_type(x))


Norming = Callable[[Tensor, slice], Tensor]
"""A volume, and which hidden channels it holds → the table that normalises it (see `Kernels.normaliser`)."""


def _dense(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in this type, dense and channels-last."""
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def _conv(x: Tensor, filters: Tensor, padding: int, stride: int) -> Tensor:
    return _dense(F.conv2d(x, filters, padding=padding, stride=stride), x.dtype)


def _conv_backward(
    gradient: Tensor, x: Tensor, filters: Tensor, *, padding: int, stride: int, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients by x and by the filters, where they are wanted."""
    if not any(wanted):
        return None, None
    by_x, by_filters, _ = torch.ops.aten.convolution_backward(
        gradient, x, filters, None, [stride, stride], [padding, padding], [1, 1], False, [0, 0], 1, [*wanted, False]
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
    plan: Arrangement,
    activation: Activation,
    norming: Norming,
) -> _Run:
    source = _dense(x, _compute_type(x))
    filters = [one.to(source.dtype) for one in layer.filters]
    volumes = [_conv(source, one, pad, plan.stride) for one, pad in zip(filters, plan.paddings, strict=True)]
    tables, first = [], 0
    for volume in volumes:
        channels = slice(first, first + volume.shape[1])
        tables.append(norming(volume, channels))
        first = channels.stop
    if layer.mixing is None or layer.mixing_bias is None:
        out = kernels.forward(volumes[0], tables[0], activation)
        return _Run(source, filters, None, volumes, tables, out)
    mixing = layer.mixing.float().flatten(1).contiguous()
    out = kernels.mix(volumes, tables, activation, mixing, layer.mixing_bias.float(), source)
    return _Run(source, filters, mixing, volumes, tables, out)


def _by_batch(kernels: Kernels, layer: Convolutions) -> Norming:
    """Normalise by batch statistics, or only add the bias where there is no norm."""

    def norming(volume: Tensor, channels: slice) -> Tensor:
        if layer.weight is not None:
            return kernels.normaliser(volume, layer.weight[channels], layer.bias[channels])
        ones = torch.ones(volume.shape[1])
        return torch.stack((torch.zeros_like(ones), ones, ones, layer.bias[channels]))

    return norming


class _Trained(torch.autograd.Function):
    """`_forward` with batch statistics, and the way back to the blocks' tensors."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernels: Kernels, activation: Activation, plan: Arrangement, *tensors: Tensor
    ) -> Tensor:
        layer = plan.assemble(tensors)
        run = _forward(kernels, x, layer, plan, activation, _by_batch(kernels, layer))
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
            both = wants_x, any(wanted[group])
            by_x, by_filters = _conv_backward(d, source, one, padding=pad, stride=plan.stride, wanted=both)
            d_filters.append(by_filters)  # autograd turns it into the type of the parameters
            d_x = _sum(kernels, d_x, by_x)
        if mixing is not None and d_x is not None:
            kernels.add(d_x, gradient)
        d_weight = None if weight is None else by_norm[0]
        by_tensor = plan.take_apart(d_filters, d_weight, by_norm[1], d_mixing, d_mixing_bias)
        return None if d_x is None else d_x.to(ctx.in_type), None, None, None, *by_tensor


def _sum(kernels: Kernels, total: Tensor | None, more: Tensor | None) -> Tensor | None:
    """Add ``more`` to ``total`` in place; ``None`` counts as zero."""
    if more is None:
        return total
    more = _dense(more, more.dtype)
    if total is not None:
        kernels.add(total, more)
    return more if total is None else total


def train_convolutions(x: Tensor, plan: Arrangement, tensors: Sequence[Tensor], activation: Activation) -> Tensor:
    """Run a layer or a stem by the kernels, normalised by the batch if it has a norm; gradients flow.

    Args:
        x: Input [B, C, H, W] for which `can_run` holds.
        plan: Where the blocks stand.
        tensors: Tensors of the blocks, as `Arrangement.tensors` gives them.
        activation: Activation σ.

    Returns:
        The output [B, out, H, W].
    """
    out: Tensor = _Trained.apply(x, _active[0], activation, plan, *tensors)  # type: ignore[no-untyped-call]
    return out


def run_convolutions(
    x: Tensor,
    layer: Convolutions,
    plan: Arrangement,
    activation: Activation,
    norming: Norming | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Run a layer or a stem by the kernels; gradients do not flow.

    Args:
        x: Input [B, C, H, W] for which `can_run` holds.
        layer: Tensors of the fused layer.
        plan: Where the blocks stand.
        activation: Activation σ.
        norming: How volumes are normalised. ``None``: by the batch, or not at all where there is no norm.

    Returns:
        The output [B, out, H, W], and the table of each volume.
    """
    run = _forward(_active[0], x, layer, plan, activation, norming or _by_batch(_active[0], layer))
    return run.out, run.tables


def by_statistics(weight: Tensor, bias: Tensor, ids: Sequence[BlockId], statistics: Statistics) -> Norming:
    """Normalise by the running statistics of some entries, whose channels lie side by side."""
    mean, variance = (join([statistics[block_id][number] for block_id in ids]).float() for number in (0, 1))
    scale = weight * torch.rsqrt(variance + EPSILON)
    table = torch.stack((mean, variance, scale, bias - mean * scale))
    return lambda volume, channels: table[:, channels].contiguous()


def write_statistics(
    statistics: Statistics, ids: Sequence[BlockId], widths: Sequence[int], tables: Sequence[Tensor], *, num_values: int
) -> None:
    """Store what a pass found: mean and unbiased variance of each entry, over ``num_values`` values per channel."""
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
