"""What a budget of time allows: how long to measure, and how long a search may go on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graftwork.datasets import Splits
from graftwork.errors import ConfigError
from graftwork.machine import Speed
from graftwork.networks.genome import Genome, forward_flops
from graftwork.session._budget import Budget
from graftwork.session._config import SearchConfig

_MEASURED = 400.0
"""Seconds of a budget from which on everything is compiled and measured at the usual length, a twentieth of it each."""
_STEPS = 400
"""Steps of a budget from which on it is, too: measuring takes about twenty."""
_AFTERWARDS = 1.5
"""Seconds after the search beside the passes of scoring: ensembles, files."""
_GROWN = 1.5
"""Times that a final survivor costs what the seed does."""


def effort_of(budget: Budget | None, step_seconds: float | None) -> float:
    """Share of the usual time to spend on measuring before the first step, 0 to 1: less where a budget is short.

    Args:
        budget: What the search may spend; ``None``: the steps of the recipe.
        step_seconds: About what a step takes; ``None``: unknown.
    """
    if budget is None or budget.kind != "seconds":
        return 1.0
    steps = 1.0 if step_seconds is None else budget.amount / (_STEPS * step_seconds)
    return min(1.0, budget.amount / _MEASURED, steps)


@dataclass(frozen=True, slots=True)
class Timing:
    """What a time budget allows a search.

    Args:
        seconds: The budget, from the start of the command to its result.
        passes: Seconds of the last passes of a final survivor, over validation, test and blend splits.
        survivors: Number of final survivors, where there are generations.
        speed: Training FLOPs per second, as measured before the first step.
        with_control: Whether a control follows, which takes as long as the search.
    """

    seconds: float
    passes: float
    survivors: int
    speed: Speed
    with_control: bool = False

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Timing":
        """Build it from plain data, as `dataclasses.asdict` makes them."""
        return cls(**{**data, "speed": Speed(**data["speed"])})

    def ending(self, generations: int, *, slowness: float = 1.0) -> float:
        """Seconds to keep for what comes after the search: the opening of the test split, ensembles; a quarter at most.

        Args:
            generations: Generations that are planned; without any, the seed network alone is left.
            slowness: Times that work takes longer than was measured.
        """
        networks = (self.survivors if generations else 1) + self.with_control
        return min(_AFTERWARDS + networks * self.passes * slowness, self.seconds / 4)

    def left(self, now: float, searched: float, *, ending: float) -> float:
        """Seconds that the search may still take.

        Args:
            now: Seconds since the start of the command.
            searched: Seconds that the search has taken.
            ending: Seconds to keep.
        """
        left = self.seconds - ending - now
        return max(0.0, (left - searched) / 2 if self.with_control else left)


def timing_of(config: SearchConfig, splits: Splits, genome: Genome, speed: Speed, *, num_calibration: int) -> Timing:
    """What the time budget of a config allows.

    Args:
        config: Options with a budget of time.
        splits: The data, all of which the final survivors see once.
        genome: The seed network.
        speed: As measured.
        num_calibration: Images that statistics are made from.

    Raises:
        ConfigError: If there is no budget.
    """
    if config.budget is None:
        raise ConfigError("timing: expected a budget of time, got none; give one")
    images = len(splits.validation) + len(splits.test) + len(splits.blend) + num_calibration
    passes = images * _GROWN * forward_flops(genome) / speed.whole
    return Timing(config.budget.amount, passes, config.recipe.num_survivors, speed, with_control=config.control)
