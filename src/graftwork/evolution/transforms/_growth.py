"""Growth: a parent, its child, and how the child's new blocks begin."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import numpy as np
import torch

from graftwork.errors import GenomeError
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.genome import Genome, diff, parameters_per_entry
from graftwork.typing import BlockId, Initialisation


@dataclass(frozen=True, slots=True)
class Growth:
    """The result of a transform: plain data until it is grafted onto a bank.

    Args:
        parent: The genome before.
        child: The genome after; it names every block of the parent, unchanged.
        transform: What was done, as a phrase for lineages and logs.
        initialisation: ``"twin"`` preserves the function, ``"random"`` does not.
        noise: Relative symmetry-breaking noise on the second twin half (see `grow_bank`); anything but 0 gives up
            exactness by about that much.
    """

    parent: Genome
    child: Genome
    transform: str
    initialisation: Initialisation = "twin"
    noise: float = 0.0

    @property
    def new_blocks(self) -> tuple[BlockId, ...]:
        """Ids of the blocks that the child has and the parent lacks."""
        known = set(self.parent.ids)
        return tuple(block_id for block_id in self.child.ids if block_id not in known)

    @property
    def preserves(self) -> bool:
        """Whether parent and child are the same function when the new blocks are grafted."""
        return self.initialisation == "twin" and self.noise == 0

    @property
    def shared_fraction(self) -> float:
        """The fraction of the child's parameters that it has from its parent: of a growth, |Θ_parent| / |Θ_child|."""
        theirs, own = parameters_per_entry(self.parent), parameters_per_entry(self.child)
        return sum(count for name, count in own.items() if theirs.get(name) == count) / sum(own.values())

    def graft(self, bank: BlockBank, *, generator: torch.Generator) -> tuple[BlockId, ...]:
        """Add the new blocks to the bank that holds the parent; the rest of the bank stays bit-identical.

        Args:
            bank: Bank to grow, in place.
            generator: Source of the new weights.

        Returns:
            The ids that were added.
        """
        return grow_bank(bank, self.child, generator=generator, initialisation=self.initialisation, noise=self.noise)

    def __str__(self) -> str:
        return f"{self.transform}\n{diff(self.parent, self.child)}"


class Transform(Protocol):
    """Growth of a genome; ``rng`` draws the ids of the new blocks."""

    def __call__(self, genome: Genome, *, rng: np.random.Generator) -> Growth: ...


def new_block_id(kernel_size: int, rng: np.random.Generator) -> BlockId:
    """An id that no other block has: the kernel size and 48 random bits, as in ``"k3-…"``."""
    return BlockId(f"k{kernel_size}-{int(rng.integers(2**48)):012x}")


def compose(*transforms: Transform) -> Callable[..., Growth]:
    """Compose several growths, from left to right; positions refer to the genome as it is by then.

    Args:
        *transforms: Growths to compose, at least one.

    Returns:
        A transform whose growth leads from the first parent to the last child.

    Raises:
        GenomeError: When called, if blocks begin in different ways: a growth that preserves must not hide one that
            does not.
    """
    if not transforms:
        raise GenomeError("compose: expected at least one transform, got none")

    def composed(genome: Genome, *, rng: np.random.Generator) -> Growth:
        def append(growths: list[Growth], transform: Transform) -> list[Growth]:
            return [*growths, transform(growths[-1].child if growths else genome, rng=rng)]

        growths = reduce(append, transforms, list[Growth]())
        first = growths[0]
        if any((g.initialisation, g.noise) != (first.initialisation, first.noise) for g in growths):
            begun = sorted({(g.initialisation, g.noise) for g in growths})
            raise GenomeError(
                f"compose: expected transforms that begin their blocks alike (twin or random, and noise), got {begun}"
            )
        text = "; ".join(growth.transform for growth in growths)
        return Growth(genome, growths[-1].child, text, first.initialisation, first.noise)

    return composed
