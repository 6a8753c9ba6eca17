"""Putting together what ranks have found or changed."""

from collections.abc import Mapping, Sequence
from time import perf_counter

import torch
from torch import Tensor

from graftwork.training import BankOptimizer
from graftwork.typing import BlockId
from graftwork.workers._group import Group

__all__ = ["add_up", "average", "time_exchange"]


@torch.no_grad()
def add_up(tensors: Sequence[Tensor], weight: float, group: Group) -> int:
    """Replace tensors, in place, by their sum over the ranks, each rank's multiplied by its own weight.

    Args:
        tensors: As many on every rank, of the same shapes.
        weight: Of this rank.
        group: The ranks.

    Returns:
        Bytes of the buffer that was summed.
    """
    if not tensors:
        return 0
    buffer = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).mul_(weight)
    group.add(buffer)
    parts = torch.split(buffer, [tensor.numel() for tensor in tensors])
    for tensor, values in zip(tensors, parts, strict=True):
        tensor.copy_(values.view(tensor.shape))
    return buffer.numel() * buffer.element_size()


def time_exchange(num_values: int, group: Group, device: torch.device | str = "cpu") -> float:
    """Seconds that `add_up` takes for so many gradients, on the slowest rank; all ranks call this at once."""
    tensors, seconds = [torch.zeros(num_values, device=device)], []
    for _ in range(4):  # the first ones open connections and get memory
        start = perf_counter()
        add_up(tensors, 1.0, group)
        seconds.append(perf_counter() - start)
    told = torch.zeros(group.size, dtype=torch.float64)
    told[group.rank] = min(seconds[1:])
    return float(group.add(told).max())


@torch.no_grad()
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
    tensors, weights = [], []
    for block_id in optimizer.bank:
        steps = [count.get(block_id, 0) for count in counts]
        if any(steps) and block_id in optimizer:
            slots = optimizer.slots(block_id)
            tensors += slots
            weights += [steps[group.rank] / sum(steps)] * len(slots)
    if not tensors:
        return 0
    sizes = [tensor.numel() for tensor in tensors]
    buffer = torch.cat([tensor.detach().reshape(-1).to(tensors[0]) for tensor in tensors])
    factors = torch.tensor(weights, dtype=torch.float64).repeat_interleave(torch.tensor(sizes)).to(buffer)
    # zeros where a rank has no say: its value times zero would be NaN if the value is infinite
    buffer = torch.where(factors > 0, buffer * factors, torch.zeros_like(buffer))
    group.add(buffer)
    for tensor, values in zip(tensors, torch.split(buffer, sizes), strict=True):
        tensor.copy_(values.view(tensor.shape))
    return buffer.numel() * buffer.element_size()
