"""Numbers that growth is made of: twin halves, matched scales, the gap between two functions. Torch only."""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

__all__ = ["relative_gap", "twin_columns", "twin_rows", "uniform"]


def twin_rows(rows: Tensor) -> Tensor:
    """``[U; U]``: two identical halves along dimension 0 (the producer side of an R2R pair)."""
    return torch.cat([rows, rows.clone()], dim=0)


def twin_columns(columns: Tensor) -> Tensor:
    """``[V, −V]`` along dimension 1: halves that cancel (the consumer side of an R2R pair)."""
    return torch.cat([columns, -columns], dim=1)


def uniform(shape: Sequence[int], std: float, *, generator: torch.Generator) -> Tensor:
    """Values of a given standard deviation: uniform on [−√3·std, √3·std]."""
    bound = sqrt(3) * std
    return torch.empty(tuple(shape)).uniform_(-bound, bound, generator=generator)


def relative_gap(one: Tensor, other: Tensor, *, scale: float = 0.0) -> float:
    """Largest difference of two outputs relative to their size: ``max|Δ| / max(max|y|, scale)``.

    Args:
        one: Any shape; the output before a growth.
        other: Same shape; the output after it.
        scale: Largest sum of the terms that cancel, so that an output of zero is no special case; 0 where unknown.

    Returns:
        0 for equal outputs, also where both are zero; infinity where a value is not finite.
    """
    difference = (one.detach().double() - other.detach().double()).abs().max()
    if not torch.isfinite(difference):
        return float("inf")
    size = max(float(one.detach().abs().max()), scale)
    return float(difference) / size if size > 0 else (0.0 if difference == 0 else float("inf"))
