"""Plan: how much work each round of a search gets."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from graftwork._html import table
from graftwork.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Plan:
    """How much work each round gets; fixed before the step that it begins with, and stored with the run.

    Either steps or FLOPs are given, never both. FLOPs cover training and scoring.

    Args:
        num_generations: Rounds after the first, which trains the seed alone.
        initial_steps: N_i, updates of the seed; ``None`` with ``flops``.
        steps_per_generation: N_j, updates in each generation; ``None`` with ``flops``.
        flops: Budget of the whole search; ``None`` with steps.
        initial_fraction: Fraction of ``flops`` that the first round gets; the rest is split evenly.
        small_share: Share of the training, from its start, whose images are shrunk to ``small_size``: progressive
            resizing, more updates for the same FLOPs. Needs members whose heads pool globally.
        small_size: Height and width of the shrunk images; ``None``: images stay as they are.
        race_steps: Updates of each of the two networks that race, before the first round and beside its work, over
            whether images are mirrored; 0: nothing is left to a race.
        ends: FLOPs that may be spent when each round ends, the last being ``flops``, where they are not divided by
            ``initial_fraction``: for a plan that was made in the middle of a search.

    Raises:
        ConfigError: If neither or both are given, or a number is out of its range.
    """

    num_generations: int
    initial_steps: int | None = None
    steps_per_generation: int | None = None
    flops: int | None = None
    initial_fraction: float = 0.5
    small_share: float = 0.0
    small_size: tuple[int, int] | None = None
    race_steps: int = 0
    ends: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("small_size", "ends"):
            if (value := getattr(self, name)) is not None:  # JSON has no tuples
                object.__setattr__(self, name, tuple(value))
        if self.num_generations < 0:
            raise ConfigError(f"plan: num_generations: expected an integer >= 0, got {self.num_generations}")
        stepped = self.initial_steps is not None and self.steps_per_generation is not None
        if stepped == (self.flops is not None):
            raise ConfigError(
                "plan: expected either initial_steps and steps_per_generation, or flops, got "
                f"{self.initial_steps}, {self.steps_per_generation} and {self.flops}"
            )
        if not 0 < self.initial_fraction <= 1:
            raise ConfigError(f"plan: initial_fraction: expected a number in (0, 1], got {self.initial_fraction!r}")
        if not 0 <= self.small_share <= 1:
            raise ConfigError(f"plan: small_share: expected a number in [0, 1], got {self.small_share!r}")
        if self.ends is not None:
            self._check_ends(self.ends)

    def _check_ends(self, ends: tuple[int, ...]) -> None:
        rising = all(before <= after for before, after in pairwise(ends))
        if len(ends) != self.num_generations + 1 or not rising or ends[-1] != self.flops:
            count = self.num_generations + 1
            raise ConfigError(
                f"plan: ends: expected {count} numbers of FLOPs that rise to {self.flops}, got {ends}; leave them out"
            )

    @property
    def total_steps(self) -> int | None:
        """Updates of the whole search; ``None`` for a plan in FLOPs."""
        if self.initial_steps is None or self.steps_per_generation is None:
            return None
        return self.initial_steps + self.num_generations * self.steps_per_generation

    @property
    def first_fraction(self) -> float:
        """Share of the work that the first round gets, in steps or in FLOPs."""
        if self.total_steps is None:
            return self.initial_fraction
        return max(1, self.initial_steps or 0) / max(1, self.total_steps)

    def _repr_html_(self) -> str:
        rounds = range(self.num_generations + 1)
        if self.flops is None:
            return table("Plan", ("round", "updates until then"), [(n, f"{self.steps_until(n):,}") for n in rounds])
        rows = [(n, f"{self.flops_until(n) / 1e12:.4g}") for n in rounds]
        return table("Plan", ("round", "TFLOP until then"), rows)

    def alone(self, flops: int) -> "Plan":
        """The same plan for one network with this number of FLOPs, scoring included: the control of a search."""
        fraction = self.first_fraction
        apart = replace(self, initial_steps=None, steps_per_generation=None, flops=flops, ends=None)
        return replace(apart, initial_fraction=fraction)

    def share(self, step: int, spent: int) -> float:
        """Share of the whole work that this number of updates (or, for a plan in FLOPs, of FLOPs) makes."""
        return step / max(1, self.total_steps or 1) if self.flops is None else spent / self.flops

    def progress(self, step: int, spent: int, reserved: int) -> float:
        """Fraction of the whole search's training that is done, which drives schedules.

        Args:
            step: Number of updates so far.
            spent: FLOPs so far.
            reserved: FLOPs that the last scoring will take.
        """
        if self.flops is None:
            return step / max(1, self.total_steps or 1)
        return min(1.0, spent / max(1, self.flops - reserved))

    def size_at(self, progress: float) -> tuple[int, int] | None:
        """Height and width that images are shrunk to; ``None``: as they are."""
        return self.small_size if progress < self.small_share else None

    def steps_until(self, generation: int) -> int:
        """Updates that are done when this round's training ends (a plan in steps)."""
        return (self.initial_steps or 0) + generation * (self.steps_per_generation or 0)

    def flops_until(self, generation: int) -> float:
        """FLOPs that may be spent when this round ends (a plan in FLOPs)."""
        if self.ends is not None:
            return float(self.ends[generation])
        if self.num_generations == 0:
            return float(self.flops or 0)
        share = (1 - self.initial_fraction) / self.num_generations
        return (self.flops or 0) * (self.initial_fraction + share * generation)


class Plans:
    """The plans of one search: each holds from a step on.

    Args:
        first: The plan from the first step on.
        later: Further plans, by the number of the update that each begins with.
    """

    def __init__(self, first: Plan, later: Mapping[int, Plan] | None = None) -> None:
        self._steps, self._plans = [0], [first]
        for step, plan in sorted((later or {}).items()):
            self.add(step, plan)

    @classmethod
    def of(cls, plan: "Plan | Plans") -> "Plans":
        """Return the plans, or those of a search that has one alone."""
        return plan if isinstance(plan, Plans) else cls(plan)

    @property
    def latest(self) -> Plan:
        """The plan that was made last."""
        return self._plans[-1]

    @property
    def latest_step(self) -> int:
        """Number of the update from which on it holds."""
        return self._steps[-1]

    @property
    def later(self) -> dict[int, Plan]:
        """The plans after the first, by the update that each begins with."""
        return dict(zip(self._steps[1:], self._plans[1:], strict=True))

    def at(self, step: int) -> Plan:
        """The plan that update number ``step`` is made by."""
        return self._plans[bisect_right(self._steps, step) - 1]

    def add(self, step: int, plan: Plan) -> None:
        """Let a plan hold from an update on.

        Raises:
            ConfigError: If it does not come after the others.
        """
        if step <= self.latest_step:
            raise ConfigError(f"plans: expected a step after {self.latest_step}, got {step}; add plans in order")
        self._steps.append(step)
        self._plans.append(plan)
