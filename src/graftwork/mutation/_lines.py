"""Parting a population into lines that share no more than a trunk."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graftwork.population import Population
from graftwork.transforms import Transform
from graftwork.typing import BlockId, MemberId


@dataclass(frozen=True, slots=True)
class Parting:
    """What a parting did.

    Args:
        lines: New members, each the first of its line.
        copies: New entry → the entry that it begins as a copy of.
    """

    lines: tuple[MemberId, ...]
    copies: dict[BlockId, BlockId]


def part(
    population: Population,
    parents: Sequence[MemberId],
    count: int,
    *,
    fork: Transform,
    rng: np.random.Generator,
    generation: int = 0,
) -> Parting:
    """Add one member for each line; those that they come from stay as they are.

    Args:
        population: Grown in place.
        parents: At least one; line *n* comes from parent *n* modulo their number.
        count: Lines.
        fork: What a line has for itself, such as `graftwork.transforms.Fork`.
        rng: Source of new ids, and of weights that begin anew.
        generation: For the lineage.
    """
    lines: list[MemberId] = []
    copies: dict[BlockId, BlockId] = {}
    for number in range(count):
        parent = parents[number % len(parents)]
        growth = fork(population[parent].genome, rng=rng)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        lines.append(population.graft(parent, growth, generator=generator, generation=generation))
        copies |= growth.copies
    return Parting(tuple(lines), copies)
