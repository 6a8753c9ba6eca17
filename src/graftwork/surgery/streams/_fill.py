"""The tensors of a wider model: old entries scaled, new ones zero, the mean of old ones, or free."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.numerics import matched_uniform, reference_scale
from graftwork.surgery._layout import Layout
from graftwork.surgery._tensors import grow_tensor
from graftwork.surgery.streams._values import Fill


def scaled(old: Tensor, factor: float, offset: float) -> Tensor:
    """Return a tensor times a factor; where the forward adds something before it multiplies, that is scaled too."""
    if factor == 1.0:
        return old
    wide = old.double() if old.is_floating_point() and old.dtype != torch.float64 else old
    return ((wide + offset) * factor - offset).to(old.dtype)


def filled(
    old: Tensor,
    layouts: Sequence[Layout],
    fills: Mapping[int, Fill],
    *,
    weights: Mapping[int, Tensor],
    free: Mapping[int, Sequence[tuple[int, int]]],
    generator: torch.Generator,
    fixed: bool,
) -> Tensor:
    """Return a parameter or buffer with new entries for a wider stream.

    Args:
        old: The tensor before, scaled already; any shape.
        layouts: One layout for every dimension.
        fills: Dimension that holds the stream → how new entries along it start.
        weights: Dimension → gains of its old entries, relative to those of the new ones: the average is taken over
            products.
        free: Dimension → stretches of old entries behind whose parts new ones are free, whatever the dimension's fill.
        generator: Source of free entries, on the CPU.
        fixed: Whether it is a buffer.
    """
    with torch.no_grad():
        result = grow_tensor(old, layouts, generator=generator, fixed=fixed)
        for dim, fill in fills.items():
            if fill is Fill.FREE and layouts[dim].reduced == layouts[dim].size:
                _share(result, old, layouts, dim, generator)
        for dim, fill in fills.items():
            if fill is Fill.ZERO:
                within = [_behind(layouts[dim], *stretch) for stretch in free.get(dim, ())]
                zero = np.logical_and.reduce([layouts[dim].new, *(~one for one in within)])
                result.index_fill_(dim, _places(zero, old.device), 0)
        for dim, fill in fills.items():
            if fill is Fill.MEAN:
                kept, new = (_places(mask, old.device) for mask in (~layouts[dim].new, layouts[dim].new))
                part = result.index_select(dim, kept).double()
                if dim in weights:
                    shape = [-1 if i == dim else 1 for i in range(old.dim())]
                    part = part * weights[dim].double().reshape(shape)
                mean = part.mean(dim, keepdim=True).to(old.dtype)
                result.index_copy_(
                    dim, new, mean.expand([len(new) if i == dim else n for i, n in enumerate(result.shape)])
                )
    return result


def _share(result: Tensor, old: Tensor, layouts: Sequence[Layout], dim: int, generator: torch.Generator) -> None:
    """Let copies along one dimension differ by random parts that add up to zero; along others they stay copies."""
    shape = [layout.new_size if d == dim else layout.reduced for d, layout in enumerate(layouts)]
    part = matched_uniform(shape, std=reference_scale(old), generator=generator, dtype=old.dtype, device=old.device)
    source = torch.as_tensor(layouts[dim].source, device=old.device)
    sums = part.new_zeros([layouts[dim].reduced if d == dim else n for d, n in enumerate(shape)])
    sums.index_add_(dim, source, part)
    part -= sums.index_select(dim, source) / (layouts[dim].new_size / layouts[dim].reduced)
    for other, layout in enumerate(layouts):
        if other != dim:
            part = part.index_select(other, torch.as_tensor(layout.source, device=old.device))
            factor = torch.as_tensor(layout.factor, dtype=part.dtype, device=part.device)
            part = part * factor.reshape([-1 if d == other else 1 for d in range(part.dim())])
    result += part


def _behind(layout: Layout, start: int, stop: int) -> NDArray[np.bool_]:
    """Which entries stand behind some old ones: the new entries of their part."""
    before = np.maximum.accumulate(layout.old)
    return np.asarray((before >= start) & (before < stop))


def _places(mask: NDArray[np.bool_], device: torch.device) -> Tensor:
    return torch.as_tensor(np.flatnonzero(mask), device=device)


def average_gain(gain: Tensor) -> float:
    """Return what a gain of branches is in new channels: its root mean square."""
    return float(gain.double().square().mean().sqrt())
