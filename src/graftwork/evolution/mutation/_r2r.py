"""The report's mutation: random R2R transforms until the population is full."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from graftwork.errors import ConfigError
from graftwork.evolution._population import Population
from graftwork.evolution.transforms import Growth, R2RDeepen, R2RWiden, RandomPadding, Transform, even
from graftwork.networks.genome import Genome, Layer, forward_flops, num_parameters, parameters_per_entry
from graftwork.training import MemoryLimit
from graftwork.typing import KERNEL_SIZES, MemberId


@dataclass(frozen=True, slots=True)
class MutationReport:
    """What one round of mutation did.

    Args:
        born: New members, in order of birth.
        rejected: Draws that broke a limit, by the limit's name.
        saturated: Whether the round gave up before the population was full.
    """

    born: tuple[MemberId, ...]
    rejected: dict[str, int]
    saturated: bool


class Mutator(Protocol):
    """Grows a population to a size."""

    def __call__(
        self, population: Population, size: int, *, rng: np.random.Generator, generation: int
    ) -> MutationReport: ...


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}: expected a number in [0, 1], got {value!r}")


@dataclass(frozen=True, slots=True)
class R2RMutation:
    """Draw a member uniformly, a transform and its site, and add the child, until the population is full.

    Defaults are the report's (facts, algorithm 3). A child that would break a limit is rejected before anything is
    built; after ``max_rejections`` rejections in a row the round stops and reports that it did.

    Args:
        deepen_probability: Probability of deepening; otherwise a layer is widened.
        kernel_probabilities: Probabilities of kernel sizes 1, 3 and 5.
        concat_probability: Probability of widening only the upper or lower half of a layer's channels.
        hidden_multiple: Hidden channels of a new block as a multiple of the channels that it writes (rounded up to
            even).
        min_shared_fraction: τ: a child must share more than this fraction of its parameters with its parent.
        max_parameters: Largest number of parameters of a child; ``None``: no limit.
        max_flops: Largest number of FLOPs of a child's forward pass over one image; ``None``: no limit.
        memory: How much training and scoring a child may take, beside what the population holds; ``None``: no limit.
        fast_enough: Whether a child classifies an image in the time allowed; ``None``: any time.
        random_padding: Whether new blocks begin at random: the control, which does not preserve the function.
        noise: Symmetry-breaking noise (see `Growth`).
        max_rejections: Number of rejections in a row after which a round stops.

    Raises:
        ConfigError: If a value is out of its range.
    """

    deepen_probability: float = 0.5
    kernel_probabilities: tuple[float, float, float] = (0.30, 0.35, 0.35)
    concat_probability: float = 0.0
    hidden_multiple: float = 1.0
    min_shared_fraction: float = 0.0
    max_parameters: int | None = None
    max_flops: int | None = None
    memory: MemoryLimit | None = None
    fast_enough: Callable[[Genome], bool] | None = None
    random_padding: bool = False
    noise: float = 0.0
    max_rejections: int = 100
    _limits: tuple[tuple[str, Callable[[Growth], bool]], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_probability("deepen_probability", self.deepen_probability)
        _check_probability("concat_probability", self.concat_probability)
        _check_probability("min_shared_fraction", self.min_shared_fraction)
        if len(self.kernel_probabilities) != 3 or abs(sum(self.kernel_probabilities) - 1) > 1e-9:
            raise ConfigError(
                f"kernel_probabilities: expected three numbers that sum to 1, got {self.kernel_probabilities!r}"
            )
        if not self.hidden_multiple > 0:
            raise ConfigError(f"hidden_multiple: expected a number > 0, got {self.hidden_multiple!r}")
        parameters, flops = self.max_parameters or float("inf"), self.max_flops or float("inf")
        shared = self.min_shared_fraction
        limits: tuple[tuple[str, Callable[[Growth], bool]], ...] = (  # the one on sharing first
            ("min_shared_fraction", lambda growth: growth.shared_fraction > shared),
            ("max_parameters", lambda growth: num_parameters(growth.child) <= parameters),
            ("max_flops", lambda growth: forward_flops(growth.child) <= flops),
        )
        object.__setattr__(self, "_limits", limits)

    def __call__(
        self, population: Population, size: int, *, rng: np.random.Generator, generation: int = 0
    ) -> MutationReport:
        """Add children until there are ``size`` members.

        Args:
            population: Population to grow, in place.
            size: Number of members wanted; nothing happens if there are that many already.
            rng: Source of every choice and of the new weights.
            generation: Number of the round, for the lineage.
        """
        born: list[MemberId] = []
        rejected: dict[str, int] = {}
        in_a_row = 0
        while len(population) < size and in_a_row < self.max_rejections:
            parent = list(population.members)[int(rng.integers(len(population)))]
            growth = self.draw(population[parent].genome, rng=rng)(population[parent].genome, rng=rng)
            broken = self.broken_limit(growth, population.bank.num_parameters if self.memory else 0)
            if broken is not None:
                rejected[broken] = rejected.get(broken, 0) + 1
                in_a_row += 1
                continue
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            born.append(population.graft(parent, growth, generator=generator, generation=generation))
            in_a_row = 0
        return MutationReport(tuple(born), rejected, saturated=len(population) < size)

    def broken_limit(self, growth: Growth, held: int = 0, *, new: bool = False) -> str | None:
        """Name of the first limit that a child would break beside ``held`` parameters; ``None``: it keeps all.

        A ``new`` child may share nothing with its parent.
        """
        limits = self._limits[1:] if new else self._limits
        broken = next((name for name, holds in limits if not holds(growth)), None)
        if broken is None and not self._fits(growth, held):
            broken = "max_memory"
        if broken is None and self.fast_enough is not None and not self.fast_enough(growth.child):
            broken = "max_latency"
        return broken

    def _fits(self, growth: Growth, held: int) -> bool:
        if self.memory is None:
            return True
        own, parents = parameters_per_entry(growth.child), set(growth.parent.ids)
        others = max(0, held - sum(count for block_id, count in own.items() if block_id in parents))
        return self.memory.holds(growth.child, others=others)

    def draw(self, genome: Genome, *, rng: np.random.Generator) -> Transform:
        """Choose a transform and its site.

        A layer to widen is drawn uniformly; a place to deepen uniformly among those after a layer or a pool.
        """
        deepen = rng.random() < self.deepen_probability
        kernel_size = int(rng.choice(KERNEL_SIZES, p=self.kernel_probabilities))
        if deepen:
            position = 1 + int(rng.integers(len(genome.body)))
            width = list(genome.steps())[position - 1].out_shape[0]
            transform: Transform = R2RDeepen(position, (kernel_size,), even(width * self.hidden_multiple), self.noise)
        else:
            places = [index for index, item in enumerate(genome.body) if isinstance(item, Layer)]
            position = places[int(rng.integers(len(places)))]
            layer = genome.body[position]
            assert isinstance(layer, Layer)
            channels = self._channels(layer.out_channels, rng)
            width = channels[1] - channels[0] if channels else layer.out_channels
            transform = R2RWiden(position, kernel_size, even(width * self.hidden_multiple), channels, self.noise)
        return RandomPadding(transform) if self.random_padding else transform

    def _channels(self, width: int, rng: np.random.Generator) -> tuple[int, int] | None:
        if width < 2 or not self.concat_probability or rng.random() >= self.concat_probability:
            return None
        half = width // 2
        return (0, half) if rng.random() < 0.5 else (half, width)
