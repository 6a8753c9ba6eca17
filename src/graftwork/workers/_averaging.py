"""Putting together what ranks have changed."""

from collections.abc import Mapping, Sequence

import torch

from graftwork.training import BankOptimizer
from graftwork.typing import BlockId
from graftwork.workers._group import Group

__all__ = ["average"]


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
