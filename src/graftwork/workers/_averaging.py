"""Putting together what ranks have found or changed."""

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
        tensors: As many on every rank, of the same shapes.
        weights: Of this rank, one a tensor. At 0 the rank has no say, even if its value is infinite.
        group: The ranks.

    Returns:
        Bytes of the buffer that was summed.
    """
    if not tensors:
        return 0
    buffer = torch.cat([tensor.detach().reshape(-1).to(tensors[0]) for tensor in tensors])
    parts = torch.split(buffer, [tensor.numel() for tensor in tensors])
    for part, weight in zip(parts, weights, strict=True):
        # not times zero, which would be NaN where the value is infinite
        part.mul_(weight) if weight else part.zero_()
    group.add(buffer)
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))
    return buffer.numel() * buffer.element_size()


def time_exchange(num_values: int, group: Group, device: torch.device | str = "cpu") -> float:
    """Seconds that `add_up` takes for so many gradients, on the slowest rank; all ranks call this at once."""
    tensors, seconds = [torch.zeros(num_values, device=device)], []
    for _ in range(4):  # the first ones open connections and get memory
        start = perf_counter()
        add_up(tensors, [1.0], group)
        seconds.append(perf_counter() - start)
    told = torch.zeros(group.size, dtype=torch.float64)
    told[group.rank] = min(seconds[1:])
    return float(group.add(told).max())


def average(optimizer: BankOptimizer, counts: Sequence[Mapping[BlockId, int]], group: Group) -> int:
    """Average the blocks that were touched, each rank's weight being the number of its steps that touched them.

    One rule for all that belongs to a block: weights, moments, and Adam's own count of steps (which then stays that of
    the moments it corrects). A block that one rank alone has touched comes to the others as it is, to the bit; a block
    that nobody has touched is not sent. Afterwards all ranks hold the same bits.

    Args:
        optimizer: Of this rank; its bank and its state are changed in place.
        counts: Of each rank: block → steps that touched it. The same on every rank.
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
