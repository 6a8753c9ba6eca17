"""Precision: measured on this machine, never assumed."""

from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.networks import Member
from graftwork.networks.execution import using_kernels
from graftwork.networks.kernels import Kernels
from graftwork.training import Passes, Precision, in_precision

_GAIN = 1.1
"""How many times faster bfloat16 must be to be chosen: it costs accuracy of the sums, so a tie goes to float32."""


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """What was chosen and what was measured, for the run's provenance.

    Args:
        precision: The faster one.
        float32_seconds: Of one training step in float32.
        bfloat16_seconds: Of one in bfloat16; ``None`` where the probe was given up early.
        reason: In words.
        passes: What runs the passes between products.
        torch_seconds: Of one step in this precision by PyTorch's passes; ``None`` where there was nothing to compare.
    """

    precision: Precision
    float32_seconds: float
    bfloat16_seconds: float | None
    reason: str
    passes: Passes = "torch"
    torch_seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


def _pass_seconds(
    network: nn.Module, batch: tuple[Tensor, Tensor], precision: Precision, limit_seconds: float
) -> float:
    """Best time of one forward and backward pass; touches no gradient and no weight."""
    x, y = batch
    owned = network.parameters_by_key().values() if isinstance(network, Member) else network.parameters()
    parameters = [p for p in owned if p.requires_grad]
    best, spent = float("inf"), 0.0
    for run in range(12):
        start = perf_counter()
        with torch.enable_grad():
            with in_precision(precision, x.device):
                logits = network(x)
            torch.autograd.grad(F.cross_entropy(logits.float().flatten(0, -2), y), parameters, allow_unused=True)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        seconds = perf_counter() - start
        best = seconds if run < 2 else min(best, seconds)  # the first run prepares kernels
        spent += seconds
        if spent > limit_seconds:
            break
    return best


def _product_seconds(dtype: torch.dtype, device: torch.device) -> float:
    """Best time of a small matrix product."""
    one = torch.ones(192, 192, dtype=dtype, device=device)
    times = []
    for _ in range(4):
        start = perf_counter()
        float((one @ one)[0, 0])  # reading a value waits for the device
        times.append(perf_counter() - start)
    return min(times)


def measure_precision(
    network: nn.Module, batch: tuple[Tensor, Tensor], *, kernels: Kernels | None = None, limit_seconds: float = 0.8
) -> PrecisionChoice:
    """Time training passes of ``network`` in float32 and in bfloat16 on the device of ``batch``; then without kernels.

    Where a tiny matrix product is already slower in bfloat16 (processors without it emulate it, up to hundreds of times
    slower) the longer probe is not made. No gradient or weight is changed, and no statistic of a `Member`; batch
    norms of an ordinary module update theirs, so pass a throw-away copy.

    Args:
        network: A small network of the kind that will be trained, a member or any module that gives
            logits [..., classes]; put into training mode, then back.
        batch: Network input and the class of every row of logits [n].
        kernels: Compiled passes, used wherever they are not slower than PyTorch's; ``None``: there are none.
        limit_seconds: About how long each of the probes may take.

    Returns:
        The fastest way and what was measured.
    """
    was_training = network.training
    network.train()
    try:
        with using_kernels(kernels):
            choice = _measure_types(network, batch, limit_seconds)
        if kernels is None:
            return choice
        with using_kernels(None):
            plain = _pass_seconds(network, batch, choice.precision, limit_seconds)
    finally:
        network.train(was_training)
    compiled = choice.float32_seconds if choice.precision == "float32" else choice.bfloat16_seconds or plain
    reason = f"{choice.reason}; compiled passes take {compiled / plain:.2f} of the time of PyTorch's"
    passes: Passes = "compiled" if compiled <= plain else "torch"
    return replace(choice, reason=reason, passes=passes, torch_seconds=plain)


def _measure_types(network: nn.Module, batch: tuple[Tensor, Tensor], limit_seconds: float) -> PrecisionChoice:
    single = _pass_seconds(network, batch, "float32", limit_seconds)
    device = batch[0].device
    slow, fast = _product_seconds(torch.bfloat16, device), _product_seconds(torch.float32, device)
    if slow > 2 * fast:
        reason = f"a bfloat16 product takes {slow / fast:.1f} times as long as one in float32 here"
        return PrecisionChoice("float32", single, None, reason)
    half = _pass_seconds(network, batch, "bfloat16", limit_seconds)
    chosen: Precision = "bfloat16" if single > _GAIN * half else "float32"
    return PrecisionChoice(chosen, single, half, f"a bfloat16 step takes {half / single:.2f} of the time of float32")
