"""Precision of a training step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]
Passes = Literal["compiled", "torch"]
"""What runs statistics, activations and pools of fused layers: compiled kernels, or PyTorch's own operations."""


@contextmanager
def in_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run a ``with`` block in float32, or with products in bfloat16 (weights and sums of updates stay float32)."""
    if precision == "float32":
        yield
    else:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
