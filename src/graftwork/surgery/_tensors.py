"""Tensors of a grown model: old entries in their places, new ones filled."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from graftwork.numerics import matched_uniform, reference_scale
from graftwork.surgery._layout import Layout

_APART = 16  # numbers: a multiple of what products want memory aligned to


def stand_in_tensor(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a tensor of random numbers that takes little memory: its entries are read from one vector, over and over.

    A matrix steps through the vector by 1 along its rows and 2 along its columns::

        shape 2 × 3, vector a b c d e f    →    a c e
                                                b d f

    Of more dimensions, the last two are one matrix of its own memory, as grouped products ask for, and further ones
    start it a little later.

    Args:
        shape: Its lengths.
        dtype: Its type.
    """
    sizes, steps = tuple(shape), _steps(shape)
    length = 1 + sum(step * (size - 1) for step, size in zip(steps, sizes, strict=True)) if all(sizes) else 0
    draw = torch.rand(length, generator=torch.Generator().manual_seed(length)) - 0.5
    if not dtype.is_floating_point and not dtype.is_complex:
        return draw.new_zeros(length).to(dtype).as_strided(sizes, steps)
    # Gains about 1, weights that keep the size of what they multiply.
    vector = 1.0 + 0.2 * draw if len(sizes) < 2 else draw * math.sqrt(12.0 / max(math.prod(sizes[1:]), 1))
    return vector.to(dtype).as_strided(sizes, steps)


def _steps(shape: Sequence[int]) -> tuple[int, ...]:
    if len(shape) <= 2:
        return tuple(range(1, len(shape) + 1))
    return (*(_APART * (at + 1) for at in range(len(shape) - 2)), shape[-1], 1)


def is_stand_in(tensor: Tensor) -> bool:
    """Whether a tensor is one of `stand_in_tensor`: its entries share their memory, and not as those of `expand` do."""
    shared = tensor.numel() > tensor.untyped_storage().nbytes() // tensor.element_size()
    return shared and tensor.stride() == _steps(tensor.shape)


def place_old(old: Tensor, layouts: Sequence[Layout], *, fill: Tensor | float = 0.0) -> Tensor:
    """Put an old tensor's entries where they stand after the growth (weights, gradients, moments).

    Args:
        old: Tensor before, any shape.
        layouts: One layout for every dimension.
        fill: Value of the new entries: a number, or a tensor of the new shape.

    Returns:
        A new tensor; the old entries are bit-identical. A stand-in becomes another one.
    """
    shape = [layout.new_size for layout in layouts]
    if is_stand_in(old):
        return stand_in_tensor(shape, old.dtype)
    if isinstance(fill, Tensor):
        result = fill.to(dtype=old.dtype, device=old.device).clone()
    else:
        result = old.new_full(shape, fill)
    spots = [layout.places for layout in layouts]
    if not any(layout.grows for layout in layouts):
        return old.clone()
    result[_grid(spots, old.device)] = old
    return result


def old_entries(new: Tensor, layouts: Sequence[Layout]) -> Tensor:
    """Return the old entries of a grown tensor, in the shape before: what `place_old` has placed."""
    return new[_grid([layout.places for layout in layouts], new.device)] if layouts else new


def _grid(indices: Sequence[np.ndarray], device: torch.device) -> tuple[Tensor, ...]:
    count = len(indices)
    return tuple(
        torch.as_tensor(index, device=device).reshape([-1 if i == j else 1 for j in range(count)])
        for i, index in enumerate(indices)
    )


def grow_tensor(
    old: Tensor,
    layouts: Sequence[Layout],
    *,
    generator: torch.Generator,
    scale: float | None = None,
    fixed: bool = False,
) -> Tensor:
    """Return a parameter or buffer with its volumes grown.

    Args:
        old: Tensor before, any shape.
        layouts: One layout for every dimension; their factors weigh what is summed over.
        generator: Source of randomness on the CPU.
        scale: Standard deviation of new weights. None matches the old ones.
        fixed: Whether it is a buffer, which nobody trains: one number for each channel (statistics) continues at its
            mean whatever its shape, and what is equal for all channels (a blur kernel) goes on so.

    Returns:
        The grown tensor: same dtype, device and memory format.
    """
    with torch.no_grad():
        reduced_shape = [layout.reduced for layout in layouts]
        reduced = _continued(old, layouts) if fixed else None
        if reduced is None:
            reduced = _fresh_like(old, reduced_shape, generator=generator, scale=scale)
        kept = [layout.source[layout.places] for layout in layouts]
        reduced[_grid(kept, old.device)] = old
        # One gather over all dimensions: nothing else of the tensor's size is alive beside these two.
        result = reduced[_grid([layout.source for layout in layouts], old.device)] if layouts else reduced
        _weigh(result, layouts)
        return result.contiguous(memory_format=memory_format(old))


def _weigh(value: Tensor, layouts: Sequence[Layout]) -> None:
    for dim, layout in enumerate(layouts):
        if (layout.factor != 1.0).any():
            factor = torch.as_tensor(layout.factor, dtype=value.dtype, device=value.device)
            value.mul_(factor.reshape([-1 if i == dim else 1 for i in range(value.dim())]))


def _continued(old: Tensor, layouts: Sequence[Layout]) -> Tensor | None:
    """A buffer of the reduced shape as it continues, None where its channels differ in more than one number."""
    shape = [layout.reduced for layout in layouts]
    if old.is_floating_point() and sum(size > 1 for size in old.shape) == 1:
        return old.new_full(shape, float(old.double().mean()))
    first = old
    for dim, layout in enumerate(layouts):
        if layout.grows:
            first = first.narrow(dim, 0, 1)
    return first.expand(shape).clone() if torch.equal(first.expand_as(old), old) else None


def _fresh_like(old: Tensor, shape: Sequence[int], *, generator: torch.Generator, scale: float | None) -> Tensor:
    """Vectors (biases, norm weights and statistics) continue at their mean, weights at their scale."""
    if old.is_complex():
        real, imag = (_fresh_like(t, shape, generator=generator, scale=scale) for t in (old.real, old.imag))
        return torch.complex(real, imag)
    if not old.is_floating_point():
        return old.new_zeros(shape)
    if sum(size > 1 for size in old.shape) <= 1 and old.dim() <= 1:
        return old.new_full(shape, float(old.double().mean()) if old.numel() else 0.0)
    std = reference_scale(old) if scale is None else scale
    return matched_uniform(shape, std=std, generator=generator, dtype=old.dtype, device=old.device)


def memory_format(tensor: Tensor) -> torch.memory_format:
    """Return the memory format in which a tensor stands."""
    if not tensor.is_contiguous():
        if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
        if tensor.dim() == 5 and tensor.is_contiguous(memory_format=torch.channels_last_3d):
            return torch.channels_last_3d
    return torch.contiguous_format
