"""What this machine does at best, and what share of it training gets."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import torch
from torch.nn import functional as F

from graftwork.training import Precision

_TYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SIDE = 1024
_CONVOLUTION = (64, 128, 16)
"""Images, channels in and out, side: a 3×3 convolution that no cache is too small for and no row too short."""
_MORE = 8
"""Times as many rows and images on a device other than the CPU, which small products leave idle."""


@dataclass(frozen=True, slots=True)
class Peak:
    """Floating-point operations per second at best, in one precision (a multiply-add is two).

    Args:
        precision: Type of the factors; sums are float32.
        product: FLOPs per second of a matrix product of 1024 × 1024, or 8192 × 8192 on another device than the CPU.
        convolution: FLOPs per second of a 3×3 convolution of 128 channels, channels-last.
    """

    precision: Precision
    product: float
    convolution: float

    @property
    def best(self) -> float:
        """The larger of the two, with which training is compared."""
        return max(self.product, self.convolution)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {**asdict(self), "best": self.best}


def _rate(work: Callable[[], torch.Tensor], flops: int, seconds: float, device: torch.device) -> float:
    """Best rate of several runs, within about so many seconds."""

    def run() -> None:
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    run()  # the first run prepares kernels
    best, spent = float("inf"), 0.0
    while spent < seconds:
        began = perf_counter()
        run()
        took = perf_counter() - began
        best, spent = min(best, took), spent + took
    return flops / best


@torch.no_grad()
def measure_peak(precision: Precision, *, seconds: float = 0.3, device: torch.device | str = "cpu") -> Peak:
    """Time a large matrix product and a large convolution; on the CPU on as many threads as torch uses.

    Args:
        precision: Type of the factors. Where the processor has no units for bfloat16 that takes long: one run is made.
        seconds: About how long each of the two is measured.
        device: Device that they run on.
    """
    place = torch.device(device)
    more = 1 if place.type == "cpu" else _MORE
    made: dict[str, Any] = {"dtype": _TYPES[precision], "device": place}
    length, (images, channels, side) = more * _SIDE, _CONVOLUTION
    images *= more
    square = torch.ones(length, length, **made)
    x = torch.ones(images, channels, side, side, **made).contiguous(memory_format=torch.channels_last)
    filters = torch.ones(channels, channels, 3, 3, **made).contiguous(memory_format=torch.channels_last)
    return Peak(
        precision,
        _rate(lambda: square @ square, 2 * length**3, seconds, place),
        _rate(lambda: F.conv2d(x, filters, padding=1), 2 * 9 * channels**2 * images * side**2, seconds, place),
    )
