"""Precision: measured on this machine, never assumed."""

from dataclasses import replace
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.machine._machine import Machine
from graftwork.networks import Member
from graftwork.networks.execution import using_kernels
from graftwork.networks.kernels import Kernels
from graftwork.training import Precision, in_precision

_GAIN = 1.1
"""How many times faster bfloat16 must be to be chosen: it costs accuracy of the sums, so float32 wins a tie."""


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
) -> Machine:
    """Time training passes of ``network`` in float32 and in bfloat16 on the device of ``batch``; then without kernels.

    Processors without bfloat16 emulate it, up to hundreds of times slower: where a small matrix product already takes
    more than twice as long in it, no training pass is timed in it. No gradient or weight is changed, and no statistic
    of a `Member`; batch norms of an ordinary module update theirs, so pass a copy.

    Args:
        network: A small network of the kind that will be trained, a member or any module that gives
            logits [..., classes]; put into training mode, then back.
        batch: Network input and the class of every row of logits [n].
        kernels: Compiled passes, used wherever they are not slower than PyTorch's; ``None``: there are none.
        limit_seconds: About how long each of the probes may take.

    Returns:
        The fastest precision and passes, as many threads as the process has, and what was measured.
    """
    was_training = network.training
    network.train()
    try:
        with using_kernels(kernels):
            machine = _measure_types(network, batch, limit_seconds)
        if kernels is None:
            return machine
        with using_kernels(None):
            plain = _pass_seconds(network, batch, machine.precision, limit_seconds)
    finally:
        network.train(was_training)
    compiled = machine.seconds[machine.precision]
    reason = f"compiled passes take {compiled / plain:.2f} of the time of PyTorch's"
    return replace(
        machine,
        passes="compiled" if compiled <= plain else "torch",
        reasons={**machine.reasons, "passes": reason},
        seconds={**machine.seconds, "torch passes": plain},
    )


def _measure_types(network: nn.Module, batch: tuple[Tensor, Tensor], limit_seconds: float) -> Machine:
    seconds = {"float32": _pass_seconds(network, batch, "float32", limit_seconds)}
    device = batch[0].device
    slow, fast = _product_seconds(torch.bfloat16, device), _product_seconds(torch.float32, device)
    if slow > 2 * fast:
        reason = f"a bfloat16 product takes {slow / fast:.1f} times as long as one in float32 here"
        return Machine(reasons={"precision": reason}, seconds=seconds)
    seconds["bfloat16"] = _pass_seconds(network, batch, "bfloat16", limit_seconds)
    ratio = seconds["bfloat16"] / seconds["float32"]
    chosen: Precision = "bfloat16" if seconds["float32"] > _GAIN * seconds["bfloat16"] else "float32"
    reason = f"a bfloat16 step takes {ratio:.2f} of the time of float32"
    return Machine(chosen, reasons={"precision": reason}, seconds=seconds)
