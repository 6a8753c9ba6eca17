"""How much memory training and scoring a network takes, estimated from its genome."""

from collections.abc import Iterator
from dataclasses import dataclass

from graftwork.networks.genome import Genome, Layer, num_parameters
from graftwork.training._precision import Passes, Precision
from graftwork.training._rules import Rules

_SLOTS = {"adam": 2, "muon": 1, "sgd": 1}
_FLOAT = 4
_OVERHEAD = 96 * 2**20
"""Bytes that the first step of any network takes: code and tables of libraries, room that the allocator keeps."""

_HOLES = 1.4
"""What the heap takes for each byte of activations: tensors of other sizes don't fit into what smaller ones left."""


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """How much memory a process may take to train and score a network, beyond what it had before.

    What is needed is an estimate; ``docs/reliability.md`` compares it with measured peaks.

    Args:
        most: Bytes.
        batch_size: Images in an update.
        scoring_size: Images in the largest pass without gradients.
        rules: Optimizer of each role.
        precision: Precision of the products.
        passes: What runs between products.
    """

    most: int
    batch_size: int
    scoring_size: int
    rules: Rules
    precision: Precision = "float32"
    passes: Passes = "torch"

    def holds(self, genome: Genome, *, others: int = 0) -> bool:
        """Whether a network fits; arguments as in `needed`."""
        return self.needed(genome, others=others) <= self.most

    def needed(self, genome: Genome, *, others: int = 0) -> int:
        """Estimate the peak while a network is trained and scored.

        Args:
            genome: The network.
            others: Parameters of other networks that are held beside it, shared ones once.

        Returns:
            Bytes: weights and optimizer state of all; gradients and activations of this one.
        """
        state = 1 + max(_SLOTS[rule.optimizer] for rule in self.rules.values())
        # beside its gradient, a weight of the network that runs is copied into the tensors of its layer, twice
        weights = others * state + num_parameters(genome) * (state + 3)
        passes = max(self._training(genome) * self.batch_size, self._scoring(genome) * self.scoring_size)
        return _OVERHEAD + _FLOAT * weights + round(_HOLES * passes)

    def _training(self, genome: Genome) -> int:
        """Bytes for one image: all that is kept for the way back, and the largest step of the way back itself."""
        kept = peak = _image(genome)
        for width_in, hidden, out in self._volumes(genome):
            kept += self._copies(genome) * hidden + out
            peak = max(peak, kept + 2 * hidden + width_in + out)
        return peak

    def _scoring(self, genome: Genome) -> int:
        """Bytes for one image: the output of every item down to the one that runs, and what that one makes."""
        kept = peak = _image(genome)
        for _, hidden, out in self._volumes(genome):
            peak = max(peak, kept + (self._copies(genome) + 1) * hidden + 2 * out)
            kept += out
        return peak

    def _copies(self, genome: Genome) -> int:
        """How often hidden channels are in memory: as products make them, joined, normalised, activated."""
        if self.passes == "compiled":
            return 1
        return 3 if genome.activation == "relu" else 4

    def _volumes(self, genome: Genome) -> Iterator[tuple[int, int, int]]:
        """Bytes for one image of the input, the hidden channels and the output of the stem and of each item."""
        size = 2 if self.precision == "bfloat16" else _FLOAT
        channels, height, width = genome.stem_shape
        if genome.stem.kind != "none":
            yield 0, channels * height * width * size, channels * height * width * size
        for step in genome.steps():
            channels, height, width = step.in_shape
            hidden = sum(b.hidden_channels for b in step.item.blocks) if isinstance(step.item, Layer) else 0
            outs, rows, columns = step.out_shape
            yield channels * height * width * size, hidden * height * width * size, outs * rows * columns * size


def _image(genome: Genome) -> int:
    """Bytes of one image: as stored, and as a number for each value, before and after it is changed at random."""
    channels, height, width = genome.input_shape
    return channels * height * width * (1 + 3 * _FLOAT)
