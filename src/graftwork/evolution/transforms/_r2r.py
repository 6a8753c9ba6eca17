"""R2RWiden and R2RDeepen: the poster's R2WiderR and R2DeeperR."""

from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from graftwork.errors import GenomeError
from graftwork.evolution.transforms._growth import Growth, Transform, new_block_id
from graftwork.networks.genome import Block, Genome, Layer


def even(width: float) -> int:
    """The smallest even number that is at least 2 and not below ``width``."""
    return 2 * max(1, ceil(width / 2))


@dataclass(frozen=True, slots=True)
class R2RWiden:
    """Add a zero-initialised block in parallel to those of a layer: ``f'(x) = x + F(x) + z(x)``.

    Args:
        position: Index of the layer in the genome's body.
        kernel_size: Kernel size of the block: 1, 3 or 5.
        hidden_channels: Hidden channels of the block, even; ``None``: as many as it writes (rounded up to even).
        channels: Range [start, stop) of the layer's output that the block writes. Blocks with the same range are
            *summed*, blocks with disjoint ranges are *concatenated*. ``None``: all of it.
        noise: Symmetry-breaking noise (see `Growth`).
    """

    position: int
    kernel_size: int = 3
    hidden_channels: int | None = None
    channels: tuple[int, int] | None = None
    noise: float = 0.0

    def __call__(self, genome: Genome, *, rng: np.random.Generator) -> Growth:
        """Widen one layer.

        Raises:
            GenomeError: If there is no layer at the position, or the block does not fit.
        """
        if not 0 <= self.position < len(genome.body) or not isinstance(genome.body[self.position], Layer):
            at = [index for index, item in enumerate(genome.body) if isinstance(item, Layer)]
            raise GenomeError(f"widen: position: expected that of a layer (one of {at}), got {self.position}")
        layer = genome.body[self.position]
        assert isinstance(layer, Layer)
        start, stop = self.channels or (0, layer.out_channels)
        hidden = self.hidden_channels or even(stop - start)
        block = Block(new_block_id(self.kernel_size, rng), self.kernel_size, hidden, start, stop)
        body = list(genome.body)
        body[self.position] = replace(layer, blocks=(*layer.blocks, block))
        where = "" if self.channels is None else f" writing [{start}, {stop})"
        text = f"widen layer {self.position} by {self.kernel_size}×{self.kernel_size}·{hidden}{where}"
        return Growth(genome, genome.replace(body=tuple(body)), text, noise=self.noise)


@dataclass(frozen=True, slots=True)
class R2RDeepen:
    """Insert a layer of zero-initialised blocks, an identity at first: ``f'(x) = f(x) + z(f(x))``.

    Args:
        position: Index in the genome's body where the new layer will stand; ``len(body)`` puts it last.
        kernel_sizes: Kernel sizes, one for each of the layer's parallel blocks.
        hidden_channels: Hidden channels of each block, even; ``None``: the width of the layer (rounded up to even).
        noise: Symmetry-breaking noise (see `Growth`).
    """

    position: int
    kernel_sizes: tuple[int, ...] = (3,)
    hidden_channels: int | None = None
    noise: float = 0.0

    def __call__(self, genome: Genome, *, rng: np.random.Generator) -> Growth:
        """Insert the layer; its width is that of its input.

        Raises:
            GenomeError: If the position is outside the body, or the layer does not fit.
        """
        if not 0 <= self.position <= len(genome.body):
            raise GenomeError(f"deepen: position: expected 0 … {len(genome.body)}, got {self.position}")
        widths = [genome.stem_shape[0], *(step.out_shape[0] for step in genome.steps())]
        width = widths[self.position]
        hidden = self.hidden_channels or even(width)
        blocks = tuple(Block(new_block_id(size, rng), size, hidden, 0, width) for size in self.kernel_sizes)
        body = (*genome.body[: self.position], Layer(width, blocks), *genome.body[self.position :])
        kernels = " + ".join(f"{size}×{size}·{hidden}" for size in self.kernel_sizes)
        return Growth(genome, genome.replace(body=body), f"deepen at {self.position} by {kernels}", noise=self.noise)


@dataclass(frozen=True, slots=True)
class RandomPadding:
    """The control: the same growth with random new weights, which does *not* preserve the function.

    Args:
        transform: Growth to imitate: `R2RWiden`, `R2RDeepen` or a composition of them.
    """

    transform: Transform

    def __call__(self, genome: Genome, *, rng: np.random.Generator) -> Growth:
        """Grow without cancelling twins."""
        growth = self.transform(genome, rng=rng)
        return replace(growth, initialisation="random", transform=f"{growth.transform} (random padding)")
