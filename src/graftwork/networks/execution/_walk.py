"""Prefix sharing: run many members over one batch, each common prefix once.

Members that agree on stem and first items, and on the statistics of those items, have identical activations there. The
walk goes down the trie of genomes depth first, so at most one path of activations is alive. An item runs by the same
code on the same tensors as in a member's own forward, so the result is the same to the bit.
"""

# A worked example. Members 0: A, pool, B; 1: A, pool, B' (B with a grafted block); 2: A, pool, B, C. The walk goes
#
#     stem                      0, 1, 2
#     └─ A                      0, 1, 2
#        └─ pool                0, 1, 2
#           ├─ B                0, 2
#           │  ├─ head          0        yields (0, logits)
#           │  └─ C             2
#           │     └─ head       2        yields (2, logits)
#           └─ B'               1
#              └─ head          1        yields (1, logits)
#
# and runs 5 items instead of the 10 of three forwards. While C runs, only the outputs of stem, A, pool and B are held.
# In evaluation mode 0 and 2 part at B already if their running statistics of B differ.

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from graftwork.networks.execution._layer import penultimate_features, run_head, run_item, run_stem
from graftwork.networks.execution._ops import Mode, Settings, Statistics, Weights
from graftwork.networks.genome import Genome, Layer, Pool, flops_per_item
from graftwork.typing import BlockId

Output = Literal["logits", "penultimate"]
"""What is computed for a member: logits [B, classes], or what its last linear layer receives [B, features]."""


class Runnable(Protocol):
    """What a walk needs to know of a member."""

    @property
    def genome(self) -> Genome: ...
    @property
    def weights(self) -> Weights: ...
    @property
    def statistics(self) -> Statistics: ...
    def settings(self, mode: Mode) -> Settings: ...


def _same_statistics(one: Statistics, other: Statistics, ids: Sequence[BlockId]) -> bool:
    for block_id in ids:
        if block_id in one and not all(
            a is b or torch.equal(a, b) for a, b in zip(one[block_id], other[block_id], strict=True)
        ):
            return False
    return True


def item_groups(
    members: Sequence[Runnable], indices: Sequence[int], position: int, mode: Mode
) -> list[tuple[Layer | Pool | None, list[int]]]:
    """Split members by their item at ``position`` (``None``: the head comes next).

    In evaluation mode, which reads running statistics, members of one group agree on those of the item, too.
    """
    groups: list[tuple[Layer | Pool | None, list[int]]] = []
    for index in indices:
        genome = members[index].genome
        item = genome.body[position] if position < len(genome.body) else None
        ids = [block.id for block in item.blocks] if isinstance(item, Layer) else []
        for other, group in groups:
            first = members[group[0]].statistics
            if other == item and (mode != "evaluate" or _same_statistics(first, members[index].statistics, ids)):
                group.append(index)
                break
        else:
            groups.append((item, [index]))
    return groups


def _spread(members: Sequence[Runnable], group: Sequence[int], ids: Sequence[BlockId]) -> None:
    """Give the statistics that the first member just wrote to the others that share the item."""
    source = members[group[0]].statistics
    for index in group[1:]:
        members[index].statistics.update({block_id: source[block_id] for block_id in ids if block_id in source})


def walk(
    members: Sequence[Runnable], x: Tensor, mode: Mode, *, output: Output = "logits"
) -> Iterator[tuple[int, Tensor]]:
    """Run every member over one batch.

    Args:
        members: Members over one bank.
        x: Images [B, C, H, W].
        mode: As in `Settings`; with ``"calibrate"`` every member's statistics are rewritten on the way.
        output: What to compute for each member.

    Yields:
        Index of a member and its output; each member once, in the order of the trie.
    """
    for group in root_groups(members, mode):
        first = members[group[0]]
        out = run_stem(first.genome.stem, x, first.weights, first.settings(mode))
        if mode == "calibrate" and first.genome.stem.kind != "none":
            _spread(members, group, [first.genome.stem.id])
        yield from _descend(members, group, 0, out, mode, output)


def root_groups(members: Sequence[Runnable], mode: Mode) -> list[list[int]]:
    """Split members by their stem and by what holds for the whole network: input, activation, norm and form."""
    roots: list[list[int]] = []
    for index, member in enumerate(members):
        for group in roots:
            if _same_root(members[group[0]], member, mode):
                group.append(index)
                break
        else:
            roots.append([index])
    return roots


def _root(genome: Genome) -> tuple[object, ...]:
    return genome.input_shape, genome.stem, genome.activation, genome.norm


def _same_root(one: Runnable, other: Runnable, mode: Mode) -> bool:
    if _root(one.genome) != _root(other.genome) or one.settings(mode).form != other.settings(mode).form:
        return False
    return mode != "evaluate" or _same_statistics(one.statistics, other.statistics, [one.genome.stem.id])


def _descend(
    members: Sequence[Runnable], indices: Sequence[int], position: int, x: Tensor, mode: Mode, output: Output
) -> Iterator[tuple[int, Tensor]]:
    for item, group in item_groups(members, indices, position, mode):
        first = members[group[0]]
        if item is not None:
            out = run_item(item, x, first.weights, first.settings(mode))
            if mode == "calibrate" and isinstance(item, Layer):
                _spread(members, group, [block.id for block in item.blocks])
            yield from _descend(members, group, position + 1, out, mode, output)
            continue
        last = run_head if output == "logits" else penultimate_features
        for index in group:  # heads are small: every member runs its own
            member = members[index]
            yield index, last(member.genome, x, member.weights, member.settings(mode))


def shared_flops(genomes: Sequence[Genome]) -> int:
    """FLOPs of one walk over one image: every shared prefix once, and every head."""
    seen: dict[tuple[object, ...], int] = {}
    total = 0
    for genome in genomes:
        costs = flops_per_item(genome)
        prefix: tuple[object, ...] = _root(genome)
        seen[prefix] = costs[0]
        for item, cost in zip(genome.body, costs[1:-1], strict=True):
            prefix = (prefix, item)
            seen[prefix] = cost
        total += costs[-1]
    return total + sum(seen.values())
