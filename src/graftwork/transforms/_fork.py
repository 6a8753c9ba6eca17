"""Fork: a network's upper part once more, under names of its own."""

from dataclasses import dataclass, replace

import numpy as np

from graftwork.errors import GenomeError
from graftwork.genome import Block, Genome, Layer
from graftwork.transforms._growth import Growth, new_block_id
from graftwork.typing import BlockId, ForkStart


@dataclass(frozen=True, slots=True)
class Fork:
    """Give a child its own copies of every block from a layer on, and of the head; it shares what lies before.

    Copies have the bits of their sources, so the child is the same function, and from then on each of the two can be
    trained without moving the other's copies: branches on a trunk (Lee et al. 2015, *Why M heads are better than one*).

    Args:
        layer: Number, from 0, of the first layer that becomes private; with as many as the genome has layers, or more,
            only the head does. The stem is always shared.
        start: ``"copy"`` preserves the function; ``"random"`` begins the private blocks anew, which does not.

    Raises:
        GenomeError: If ``layer`` is negative.
    """

    layer: int = 0
    start: ForkStart = "copy"

    def __post_init__(self) -> None:
        if self.layer < 0:
            raise GenomeError(f"fork: layer must be an integer >= 0, got {self.layer!r}")

    def __call__(self, genome: Genome, *, rng: np.random.Generator) -> Growth:
        """Fork a genome; ``rng`` draws the new ids."""
        copies: dict[BlockId, BlockId] = {}

        def renamed(block: Block) -> Block:
            copy = replace(block, id=new_block_id(f"k{block.kernel_size}", rng))
            copies[copy.id] = block.id
            return copy

        body, number = list(genome.body), 0
        for position, item in enumerate(body):
            if isinstance(item, Layer):
                if number >= self.layer:
                    body[position] = replace(item, blocks=tuple(map(renamed, item.blocks)))
                number += 1
        head = replace(genome.head, id=new_block_id("head", rng))
        copies[head.id] = genome.head.id
        child = genome.replace(body=tuple(body), head=head)
        where = f"fork from layer {self.layer} on" if self.layer < number else "fork of the head"
        if self.start == "random":
            return Growth(genome, child, f"{where}, begun anew", initialisation="random")
        return Growth(genome, child, where, copies=copies)
