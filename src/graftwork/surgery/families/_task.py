"""What a search over sizes was asked for."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn, optim

from graftwork.errors import ConfigError
from graftwork.surgery._advise import FEWEST
from graftwork.surgery._calls import Batches, Loss, call_of
from graftwork.surgery._grow import Optimizers, given_optimizers
from graftwork.surgery._updates import Pair
from graftwork.surgery.growths import ModelGrowth

MOMENTS = (0.05, 0.1, 0.2, 0.35)
"""Shares of the FLOPs that the trunk has taken when races are held: early, as growth later than half has not been seen
to pay (``docs/results.md``, growing in depth, late)."""
SHARE = 0.02
"""Length of each arm of a race, as a share of the FLOPs."""
DECAY = 0.2
"""Share of a model's FLOPs in which its rates fall; a fifth was enough for Hägele et al. 2024 (arXiv 2405.18392)."""
SAVES = 20
"""About how often the training is stored."""
_MOST_RACED = 0.5
"""Share of the FLOPs that races may take if all are held."""


@dataclass(frozen=True)
class Task:
    """The arguments of `search_module`."""

    build: Callable[[], nn.Module]
    growths: tuple[ModelGrowth, ...]
    optimizer: Callable[[nn.Module], Optimizers]
    batches: Callable[[int], Batches]
    held_out: Sequence[Pair]
    loss: Loss
    steps: int
    seed: int

    def __post_init__(self) -> None:
        if not self.held_out:
            raise ConfigError("held_out: expected pairs of inputs and targets, got none")
        for growth in self.growths:
            if not isinstance(growth, ModelGrowth):
                raise ConfigError(f"growths: expected values such as WidenAll(1.5), got {type(growth).__name__}")
        if round(SHARE * self.steps) < FEWEST:
            raise ConfigError(
                f"steps: expected at least {math.ceil(FEWEST / SHARE)} updates, of which a race takes {SHARE:.0%}, "
                f"got {self.steps}"
            )
        if (raced := len(MOMENTS) * SHARE * (1 + len(self.growths))) > _MOST_RACED:
            raise ConfigError(
                f"growths: expected at most {round(_MOST_RACED / SHARE / len(MOMENTS)) - 1}, got "
                f"{len(self.growths)}, whose races would take {raced:.0%} of the FLOPs; race fewer"
            )

    @property
    def asked(self) -> dict[str, Any]:
        """What another call must have in common to go on with the folder, as plain data."""
        return {"growths": [growth.to_dict() for growth in self.growths], "steps": self.steps, "seed": self.seed}

    def optimizers(self, model: nn.Module) -> tuple[optim.Optimizer, ...]:
        """Make the optimizers of a model."""
        found = given_optimizers(self.optimizer(model))
        if not found:
            raise ConfigError("optimizer: expected a function that returns what trains the model, got none")
        return found

    def pairs(self, step: int) -> Iterator[Pair]:
        """The pairs from an update on, without end."""
        while True:
            first = step
            for inputs, target in self.batches(step):
                yield call_of(inputs), target
                step += 1
            if step == first:
                raise ConfigError(f"batches: expected pairs of inputs and targets from step {step} on, got none")


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Draw from generators of torch that these numbers seed; afterwards they are as before."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
        yield
