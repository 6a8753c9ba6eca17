"""Combine what ranks have computed or changed."""

from collections.abc import Mapping, Sequence
from time import perf_counter

import torch
from torch import Tensor

from graftwork.training import BankOptimizer
from graftwork.typing import BlockId
from graftwork.workers._group import Group


@torch.no_grad()
def add_up(tensors: Sequence[Tensor], weights: Sequence[float], group: Group) -> int:
    """Replace tensors, in place, by their sum over the ranks, each multiplied by its rank's weight.

    Args:
        tensors: Tensors of this rank; the same number on every rank, of the same shapes.
        weights: Weight of this rank for each tensor. At 0 its value does not count, even if it is infinite.
        group: The ranks.

    Returns:
        Bytes of the buffer that was summed.
    """
    if not tensors:
        return 0
    buffer = torch.cat([tensor.detach().reshape(-1).to(tensors[0]) for tensor in tensors])
    views = torch.split(buffer, [tensor.numel() for tensor in tensors])
    for view, weight in zip(views, weights, strict=True):
        # not times zero, which would be NaN where the value is infinite
        view.mul_(weight) if weight else view.zero_()
    group.add(buffer)
    for tensor, view in zip(tensors, views, strict=True):
        tensor.copy_(view.view(tensor.shape))
    return buffer.numel() * buffer.element_size()


def time_exchange(num_values: int, group: Group, device: torch.device | str = "cpu") -> float:
    """Measure the seconds that `add_up` takes for this number of values, on the slowest rank; all ranks call it."""
    tensors, seconds = [torch.zeros(num_values, device=device)], []
    for _ in range(4):  # the first one opens connections and gets memory, so it is not counted
        start = perf_counter()
        add_up(tensors, [1.0], group)
        seconds.append(perf_counter() - start)
    told = torch.zeros(group.size, dtype=torch.float64)
    told[group.rank] = min(seconds[1:])
    return float(group.add(told).max())


def average(optimizer: BankOptimizer, counts: Sequence[Mapping[BlockId, int]], group: Group) -> int:
    """Average the blocks that were touched; a rank's weight is the number of its steps that touched the block.

    The same weights apply to all that belongs to a block: its tensors, their moments, and Adam's own count of steps
    (which so remains the count of the moments that it corrects). A block that only one rank has touched reaches the
    others as it is, to the bit; a block that no rank has touched is not sent. Afterwards all ranks hold the same bits.

    Args:
        optimizer: Optimizer of this rank; its bank and its state are changed in place.
        counts: For each rank, block → number of steps that touched it. The same on every rank.
        group: The ranks.

    Returns:
        Bytes of the buffer that was summed.
    """
    tensors: list[Tensor] = []
    weights: list[float] = []
    for block_id in optimizer.bank:
        steps = [count.get(block_id, 0) for count in counts]
        if any(steps) and block_id in optimizer:
            slots = optimizer.slots(block_id)
            tensors += slots
            weights += [steps[group.rank] / sum(steps)] * len(slots)
    return add_up(tensors, weights, group)
