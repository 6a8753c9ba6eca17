"""The arithmetic that every growth shares: matched scales, twin halves, gaps (torch only).

An R2R block computes ``β σ(W x) − β σ(W x)``: two halves that start alike and cancel. Written with whole
tensors, the producer of the hidden volume holds ``[U; U]`` along its output dimension and the consumer ``[V,
−V]`` along its input dimension. The functions here make those tensors, choose the scale of ``U`` and ``V``,
and measure how far a growth moved the outputs.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graftwork.errors import InputError

__all__ = [
    "matched_uniform",
    "output_gap",
    "reference_scale",
    "tolerance_for",
    "twin_columns",
    "twin_rows",
]

_TOLERANCES = {
    torch.float64: 1e-10,
    torch.float32: 2e-5,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
_PIECE = 1 << 20  # entries that are compared at a time


def matched_uniform(
    shape: Sequence[int],
    *,
    std: float,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw new weights with the standard deviation of the weights that are already there.

    Args:
        shape: Shape of the result.
        std: Standard deviation of the draw; the distribution is U(−√3·std, √3·std). Zero gives zeros.
        generator: Source of randomness on the CPU. None uses torch's global CPU generator.
        dtype: Data type of the result. None is torch's default.
        device: Where the result goes. The draw is made on the CPU, so every device gets the same numbers.

    Returns:
        A fresh tensor of the given shape, without gradient.

    Raises:
        InputError: ``std`` is negative or not finite.

    Source: the poster's report, "new weights should match the scale of the weights already there".
    """
    if not math.isfinite(std) or std < 0:
        raise InputError(f"std must be a finite number >= 0, got {std!r}: pass reference_scale(old_weights)")
    bound = math.sqrt(3.0) * std
    # Drawn in float32 at least: uniform_ in half precision has only a few hundred distinct values.
    wide = dtype if dtype in {torch.float32, torch.float64} else torch.float32
    draw = torch.empty(tuple(shape), dtype=wide).uniform_(-bound, bound, generator=generator)
    return draw.to(device=device, dtype=dtype or torch.get_default_dtype())


def reference_scale(reference: Tensor, *, fan_in: int | None = None) -> float:
    """Return the scale that new weights beside ``reference`` should have.

    Args:
        reference: Weights that are already there, any shape.
        fan_in: Inputs of one unit, used when ``reference`` holds nothing to measure (fewer than two numbers,
            or all zero). None counts all dimensions of ``reference`` but the first.

    Returns:
        The root mean square of ``reference`` about zero, or ``sqrt(1 / fan_in)`` where there is nothing to
        measure.
    """
    if reference.numel() > 1:
        scale = float(reference.detach().double().square().mean().sqrt())
        if math.isfinite(scale) and scale > 0:
            return scale
    fan = fan_in if fan_in is not None else math.prod(reference.shape[1:])
    return math.sqrt(1.0 / max(fan, 1))


def twin_rows(half: Tensor, *, dim: int = 0) -> Tensor:
    """Return ``[U; U]``: the producer's rows of a twin volume.

    Args:
        half: ``U``, any shape; copied, never aliased.
        dim: Dimension of the hidden volume (0 for the weight and the bias of a convolution or linear map).

    Returns:
        A tensor twice as long along ``dim``.
    """
    return torch.cat([half, half], dim=dim)


def twin_columns(half: Tensor, *, dim: int = 1) -> Tensor:
    """Return ``[V, −V]``: the consumer's columns of a twin volume, which cancel equal twins.

    Args:
        half: ``V``, any shape.
        dim: Dimension of the hidden volume (1 for the weight of a convolution or linear map).

    Returns:
        A tensor twice as long along ``dim``.
    """
    return torch.cat([half, -half], dim=dim)


def output_gap(before: object, after: object, *, cancelled: float = 0.0) -> float:
    """Measure how far a growth moved the outputs: max|Δ| / max(max|y|, largest cancelled term).

    Args:
        before: Output of the network before the growth: a tensor, or a nest of tuples, lists and mappings of
            tensors (anything that is not a tensor of numbers is passed over).
        after: Output after the growth, of the same structure.
        cancelled: Largest sum of terms that cancel, so that an output of zero is no special case.

    Returns:
        The relative gap, at least 0; ``inf`` where the structures or shapes differ or ``after`` has NaN or
        infinity that ``before`` has not.
    """
    first, second = _tensors(before), _tensors(after)
    if len(first) != len(second):
        return math.inf
    gap = 0.0
    for old, new in zip(first, second, strict=True):
        gap = max(gap, _tensor_gap(old, new, cancelled))
    return gap


def tolerance_for(dtype: torch.dtype) -> float:
    """Return the largest gap that counts as rounding in ``dtype``: 1e-10 in float64, 2e-5 in float32.

    Raises:
        InputError: ``dtype`` is not a floating-point type that a network computes in.
    """
    if dtype not in _TOLERANCES:
        raise InputError(f"expected one of {sorted(map(str, _TOLERANCES))}, got {dtype!r}")
    return _TOLERANCES[dtype]


def _tensor_gap(old: Tensor, new: Tensor, cancelled: float) -> float:
    if old.shape != new.shape:
        return math.inf
    if old.numel() == 0:
        return 0.0
    if not (old.is_floating_point() or old.is_complex()):
        return 0.0 if torch.equal(old, new) else math.inf
    delta, size = 0.0, cancelled
    # Piece by piece: all of a language model's logits in double precision, several times over, are a large part of it.
    pieces = (torch.split(tensor.detach().reshape(-1), _PIECE) for tensor in (old, new))
    for before, after in zip(*pieces, strict=True):
        worst, largest = _extremes(before, after)
        if not math.isfinite(worst):
            return math.inf
        delta, size = max(delta, worst), max(size, largest)
    if delta == 0.0:
        return 0.0
    return delta / size if size > 0.0 else math.inf


def _extremes(before: Tensor, after: Tensor) -> tuple[float, float]:
    """The largest difference, and the largest finite entry of the first."""
    wide = torch.complex128 if before.is_complex() else torch.float64
    a, b = before.to(wide), after.to(wide)
    finite = a[a.isfinite()]
    largest = finite.abs().max().item() if finite.numel() else 0.0
    # Masked scores are −inf before and after: equal entries count as no difference, whatever they are.
    differing = ~((a == b) | (a.isnan() & b.isnan()))
    if not bool(differing.any()):
        return 0.0, largest
    return (a - b)[differing].abs().max().item(), largest


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [found for item in value.values() for found in _tensors(item)]
    if isinstance(value, (list, tuple)):
        return [found for item in value for found in _tensors(item)]
    return []
