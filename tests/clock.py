"""A clock that tells FLOPs, for tests of what is timed: nothing in them depends on the machine."""

from collections.abc import Callable

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode


def count_passes(run: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """In place of `graftwork.machine.time_passes`: GFLOPs of a pass."""
    with FlopCounterMode(display=False) as counter:
        run(images)
    return counter.get_total_flops() / 1e9
