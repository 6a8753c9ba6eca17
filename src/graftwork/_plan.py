"""Plan: how much work each round of a search gets."""

from dataclasses import dataclass, replace

from graftwork.errors import ConfigError
from graftwork.typing import ForkStart

__all__ = ["Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much work each round gets; fixed before the first step and stored with the run.

    Either steps or FLOPs are given, never both. FLOPs cover training and scoring.

    Args:
        num_generations: Rounds after the first, which trains the seed alone.
        initial_steps: N_i, updates of the seed; ``None`` with ``flops``.
        steps_per_generation: N_j, updates a generation; ``None`` with ``flops``.
        flops: Budget of the whole search; ``None`` with steps.
        initial_fraction: Fraction of ``flops`` that the first round gets; the rest is dealt out equally.
        members_per_step: S, different members that an update trains together; 1 is the poster's. Steps count updates;
            FLOPs count what the members have in common once.
        small_share: Share of the training, from its start, whose images are shrunk to ``small_size``: progressive
            resizing, more updates for the same FLOPs. Needs members whose heads pool globally.
        small_size: Height and width; ``None``: images stay as they are.
        fork_fraction: Share of the work after which the population parts into lines (see `search`): at once in the
            first round, otherwise when the next round begins; ``None``: never.
        fork_layer: Number of the first layer, from 0, that each line has for itself (see `Fork`).
        fork_start: How private blocks begin.
        trunk_rate: Factor on the learning rate of what several lines share; 0 freezes it.

    Raises:
        ConfigError: If neither or both are given, or a number is out of its range.
    """

    num_generations: int
    initial_steps: int | None = None
    steps_per_generation: int | None = None
    flops: int | None = None
    initial_fraction: float = 0.5
    members_per_step: int = 1
    small_share: float = 0.0
    small_size: tuple[int, int] | None = None
    fork_fraction: float | None = None
    fork_layer: int = 0
    fork_start: ForkStart = "copy"
    trunk_rate: float = 1.0

    def __post_init__(self) -> None:
        if self.small_size is not None:  # JSON has no tuples
            object.__setattr__(self, "small_size", tuple(self.small_size))
        if self.num_generations < 0:
            raise ConfigError(f"plan: num_generations must be >= 0, got {self.num_generations}")
        stepped = self.initial_steps is not None and self.steps_per_generation is not None
        if stepped == (self.flops is not None):
            raise ConfigError("plan: give either initial_steps and steps_per_generation, or flops")
        if not 0 < self.initial_fraction <= 1:
            raise ConfigError(f"plan: initial_fraction must be in (0, 1], got {self.initial_fraction!r}")
        if self.members_per_step < 1:
            raise ConfigError(f"plan: members_per_step must be >= 1, got {self.members_per_step!r}")
        if not 0 <= self.small_share <= 1:
            raise ConfigError(f"plan: small_share must be in [0, 1], got {self.small_share!r}")
        if not 0 <= self.trunk_rate <= 1:
            raise ConfigError(f"plan: trunk_rate must be in [0, 1], got {self.trunk_rate!r}")
        last = self.begins(self.num_generations) if self.num_generations else 1.0
        if self.fork_fraction is not None and not 0 <= self.fork_fraction <= last:
            raise ConfigError(
                f"plan: fork_fraction must lie between 0 and the beginning of the last round, {last:.4g} of the work, "
                f"got {self.fork_fraction!r}; lower it, or take a longer last round"
            )

    @property
    def total_steps(self) -> int | None:
        """Updates of the whole search; ``None`` for a plan in FLOPs."""
        if self.initial_steps is None or self.steps_per_generation is None:
            return None
        return self.initial_steps + self.num_generations * self.steps_per_generation

    @property
    def first_fraction(self) -> float:
        """Share of the work that the first round gets, whatever the plan counts."""
        if self.total_steps is None:
            return self.initial_fraction
        return max(1, self.initial_steps or 0) / max(1, self.total_steps)

    def alone(self, flops: int) -> "Plan":
        """The same plan for one network with so many FLOPs, scoring included: the control of a search."""
        return replace(
            self,
            initial_steps=None,
            steps_per_generation=None,
            flops=flops,
            initial_fraction=self.first_fraction,
            members_per_step=1,
            fork_fraction=None,
            trunk_rate=1.0,
        )

    def begins(self, generation: int) -> float:
        """Share of the work after which a round begins."""
        first = self.first_fraction
        return first + (1 - first) * (generation - 1) / self.num_generations if generation else 0.0

    @property
    def fork_generation(self) -> int | None:
        """Round in which the population parts; ``None``: in none. In all but round 0 that is when it begins."""
        if self.fork_fraction is None:
            return None
        rounds = range(1, self.num_generations + 1)
        if not rounds or self.fork_fraction < self.begins(1):
            return 0
        return next(number for number in rounds if self.begins(number) >= self.fork_fraction)

    def share(self, step: int, spent: int) -> float:
        """Share of the work that so many updates or FLOPs are."""
        return step / max(1, self.total_steps or 1) if self.flops is None else spent / self.flops

    def size_at(self, progress: float) -> tuple[int, int] | None:
        """Height and width that images are shrunk to; ``None``: as they are."""
        return self.small_size if progress < self.small_share else None

    def steps_until(self, generation: int) -> int:
        """Updates that are done when this round's training ends (a plan in steps)."""
        return (self.initial_steps or 0) + generation * (self.steps_per_generation or 0)

    def flops_until(self, generation: int) -> float:
        """FLOPs that may be spent when this round ends (a plan in FLOPs)."""
        if self.num_generations == 0:
            return float(self.flops or 0)
        share = (1 - self.initial_fraction) / self.num_generations
        return (self.flops or 0) * (self.initial_fraction + share * generation)
