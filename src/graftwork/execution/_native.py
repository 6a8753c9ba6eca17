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

from graftwork.execution._ops import Statistics
from graftwork.kernels import EPSILON, Kernels
from graftwork.typing import Activation, BlockId

__all__ = [
    "Convolutions",
    "by_statistics",
    "can_run",
    "get_kernels",
    "max_pool",
    "run_convolutions",
    "set_kernels",
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


Table = tuple[Tensor, Tensor, Tensor, Tensor]
"""Mean, variance, scale and shift of each channel of one volume: float32 [C] each."""


@dataclass(frozen=True, slots=True)
class Convolutions:
    """The tensors of a fused layer, or of a stem.

    Args:
        filters: One a kernel size [hidden, C, k, k]; their outputs lie side by side.
        paddings: Of each of them.
        weight: Of the norm [all hidden]; ``None``: no norm.
        bias: Of the norm, or before σ [all hidden].
        mixing: 1×1 filters [out, all hidden, 1, 1], followed by the residual; ``None``: σ is the output.
        mixing_bias: [out].
    """

    filters: Sequence[Tensor]
    paddings: tuple[int, ...]
    weight: Tensor | None
    bias: Tensor
    mixing: Tensor | None = None
    mixing_bias: Tensor | None = None


Norming = Callable[[Tensor, slice], Table]
"""How one volume is normalised: from it, and its channels among all the hidden ones."""


def _dense(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in this type, dense and channels-last."""
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def _conv(x: Tensor, filters: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    bias = None if bias is None else bias.to(x.dtype)
    return _dense(F.conv2d(x, filters.to(x.dtype), bias, padding=padding), x.dtype)


def _conv_backward(
    gradient: Tensor, x: Tensor, filters: Tensor, padding: int, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if not any(wanted):
        return None, None, None
    found: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
        gradient, x, filters.to(x.dtype), [len(filters)] if wanted[2] else None,
        [1, 1], [padding, padding], [1, 1], False, [0, 0], 1, list(wanted),
    )  # fmt: skip
    return found


@dataclass(frozen=True, slots=True)
class _Run:
    """What a forward pass leaves for the way back."""

    source: Tensor
    volumes: list[Tensor]
    tables: list[Table]
    hidden: Tensor
    out: Tensor


def _forward(kernels: Kernels, x: Tensor, layer: Convolutions, activation: Activation, norming: Norming) -> _Run:
    source = _dense(x, _compute_type(x))
    volumes = [_conv(source, one, None, pad) for one, pad in zip(layer.filters, layer.paddings, strict=True)]
    images, _, height, breadth = volumes[0].shape
    shape = (images, len(layer.bias), height, breadth)
    hidden = torch.empty(shape, dtype=source.dtype, memory_format=torch.channels_last)
    tables, first = [], 0
    for volume in volumes:
        part = slice(first, first + volume.shape[1])
        tables.append(norming(volume, part))
        kernels.forward(volume, tables[-1][2], tables[-1][3], activation, hidden, first)
        first = part.stop
    if layer.mixing is None:
        return _Run(source, volumes, tables, hidden, hidden)
    out = _conv(hidden, layer.mixing, layer.mixing_bias, 0)
    kernels.add(out, source)
    return _Run(source, volumes, tables, hidden, out)


def _by_batch(kernels: Kernels, layer: Convolutions) -> Norming:
    """Batch statistics; or none."""

    def norming(volume: Tensor, part: slice) -> Table:
        if layer.weight is not None:
            return kernels.normaliser(volume, layer.weight[part], layer.bias[part])
        zero, one = torch.zeros(volume.shape[1]), torch.ones(volume.shape[1])
        return zero, one, one, layer.bias[part]

    return norming


class _Trained(torch.autograd.Function):
    """`_forward` by batch statistics, and the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kernels: Kernels,
        activation: Activation,
        paddings: tuple[int, ...],
        weight: Tensor | None,
        bias: Tensor,
        mixing: Tensor | None,
        mixing_bias: Tensor | None,
        *filters: Tensor,
    ) -> Tensor:
        layer = Convolutions(filters, paddings, weight, bias, mixing, mixing_bias)
        run = _forward(kernels, x, layer, activation, _by_batch(kernels, layer))
        ctx.kernels, ctx.activation, ctx.paddings, ctx.tables = kernels, activation, paddings, run.tables
        ctx.in_type, ctx.num_filters = x.dtype, len(filters)
        # the hidden volume is needed for the gradient of the mixing weights alone; as output it must not be kept twice
        hidden = None if mixing is None else run.hidden
        ctx.save_for_backward(run.source, hidden, weight, mixing, *filters, *run.volumes)
        return run.out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        kernels, saved, count = ctx.kernels, ctx.saved_tensors, ctx.num_filters
        source, hidden, weight, mixing = saved[:4]
        filters, volumes, wanted = saved[4 : 4 + count], saved[4 + count :], ctx.needs_input_grad
        gradient = _dense(gradient, source.dtype)
        inner, d_mixing, d_mixing_bias = gradient, None, None
        if mixing is not None:
            found, d_mixing, d_mixing_bias = _conv_backward(gradient, hidden, mixing, 0, (True, True, True))
            assert found is not None  # it was asked for
            inner = _dense(found, source.dtype)
        d_x, d_weights, d_biases, d_filters, first = None, [], [], [], 0
        for volume, table, one, pad, want in zip(
            volumes, ctx.tables, filters, ctx.paddings, wanted[-count:], strict=True
        ):
            mean, variance, scale, shift = table
            part = slice(first, first + volume.shape[1])
            d, sums = kernels.backward(volume, inner, first, scale, shift, mean, ctx.activation)
            if weight is None:
                d_biases.append(sums[0].float())
            else:
                d_weight, d_bias = kernels.finish(volume, d, sums, mean, variance, weight[part], scale)
                d_weights.append(d_weight)
                d_biases.append(d_bias)
            by_x, by_filters, _ = _conv_backward(d, source, one, pad, (wanted[0], want, False))
            d_filters.append(_as(by_filters, one))
            d_x = _sum(kernels, d_x, by_x)
            first = part.stop
        if mixing is not None and d_x is not None:
            kernels.add(d_x, gradient)
        return (
            None if d_x is None else d_x.to(ctx.in_type),
            None,
            None,
            None,
            torch.cat(d_weights) if d_weights else None,
            torch.cat(d_biases),
            _as(d_mixing, mixing),
            None if d_mixing_bias is None else d_mixing_bias.float(),
            *d_filters,
        )


def _as(gradient: Tensor | None, tensor: Tensor | None) -> Tensor | None:
    return None if gradient is None or tensor is None else gradient.to(tensor.dtype)


def _sum(kernels: Kernels, total: Tensor | None, more: Tensor | None) -> Tensor | None:
    """Their sum, in the first one's memory; ``None`` is nothing."""
    if more is None:
        return total
    more = _dense(more, more.dtype)
    if total is not None:
        kernels.add(total, more)
    return more if total is None else total


def run_convolutions(
    x: Tensor, layer: Convolutions, activation: Activation, norming: Norming | None = None
) -> tuple[Tensor, list[Table]]:
    """Run a fused layer or a stem by the kernels.

    Args:
        x: [B, C, H, W], for which `can_run` holds.
        layer: Its tensors.
        activation: σ.
        norming: How volumes are normalised; gradients do not flow. ``None``: by the batch, or not at all where there
            is no norm; gradients flow.

    Returns:
        The output [B, out, H, W], and the tables of each volume (none where gradients flow).
    """
    kernels = _active[0]
    if norming is not None or not torch.is_grad_enabled():
        run = _forward(kernels, x, layer, activation, norming or _by_batch(kernels, layer))
        return run.out, run.tables
    tensors = (layer.weight, layer.bias, layer.mixing, layer.mixing_bias, *layer.filters)
    out: Tensor = _Trained.apply(x, kernels, activation, layer.paddings, *tensors)  # type: ignore[no-untyped-call]
    return out, []


def by_statistics(weight: Tensor, bias: Tensor, ids: Sequence[BlockId], statistics: Statistics) -> Norming:
    """Normalise by running statistics of some entries, whose channels lie side by side."""
    mean = torch.cat([statistics[block_id][0] for block_id in ids])
    variance = torch.cat([statistics[block_id][1] for block_id in ids])
    scale = weight * torch.rsqrt(variance + EPSILON)
    shift = bias - mean * scale
    return lambda volume, part: (mean[part], variance[part], scale[part], shift[part])


def write_statistics(
    statistics: Statistics, ids: Sequence[BlockId], widths: Sequence[int], tables: Sequence[Table], *, num_values: int
) -> None:
    """Store what a pass found: mean and unbiased variance of each entry, over so many values a channel."""
    mean, variance = torch.cat([table[0] for table in tables]), torch.cat([table[1] for table in tables])
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
