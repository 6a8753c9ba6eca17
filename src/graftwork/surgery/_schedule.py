"""Grow on a schedule inside a training loop."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from graftwork.errors import ConfigError
from graftwork.surgery._calls import ExampleInput
from graftwork.surgery._grow import grow
from graftwork.surgery._plan import SurgeryReceipt
from graftwork.surgery.growths import ModelGrowth


class GrowthSchedule:
    """When to grow: a training loop calls `step` after every optimizer step.

    Args:
        growths: Moment → growth. A moment is a number of steps, or a percentage of ``total_steps`` as text:
            ``"50%"``.
        total_steps: Steps of the whole training; needed for percentages.

    Raises:
        ConfigError: A moment can't be read, a percentage comes without ``total_steps``, or something is no growth.

    Example:
        >>> schedule = GrowthSchedule({"50%": WidenAll(2)}, total_steps=1000)
        >>> schedule.moments
        [500]
    """

    def __init__(self, growths: Mapping[str | int, ModelGrowth], *, total_steps: int | None = None) -> None:
        for when, growth in growths.items():
            if not isinstance(growth, ModelGrowth):
                raise ConfigError(
                    f"the growth at {when!r}: expected a value such as WidenAll(2), got {type(growth).__name__}"
                )
        self._due = sorted(
            ((_moment(when, total_steps), growth) for when, growth in growths.items()),
            key=lambda pair: pair[0],
        )
        self._steps = 0
        self.receipts: list[SurgeryReceipt] = []

    @property
    def moments(self) -> list[int]:
        """Steps at which a growth is still to come."""
        return [moment for moment, _ in self._due]

    @property
    def steps(self) -> int:
        """Optimizer steps counted so far."""
        return self._steps

    def step(self, model: nn.Module, *, example_input: ExampleInput, **along: Any) -> list[SurgeryReceipt]:
        """Count one optimizer step and make the growths that are due.

        Args:
            model: The model in training.
            example_input: One batch.
            **along: ``optimizer``, ``mirrors`` and ``generator`` of `plan`.

        Returns:
            Receipts of this step's growths, usually none.
        """
        self._steps += 1
        made: list[SurgeryReceipt] = []
        while self._due and self._due[0][0] <= self._steps:
            made.append(grow(model, self._due[0][1], example_input=example_input, **along))
            self._due.pop(0)
        self.receipts += made
        return made

    def state_dict(self) -> dict[str, int]:
        """Return what a checkpoint needs."""
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a checkpoint of a model whose past growths have been rebuilt (`load_model`)."""
        self._steps = state["steps"]
        self._due = [(moment, growth) for moment, growth in self._due if moment > self._steps]


def _moment(when: str | int, total_steps: int | None) -> int:
    if isinstance(when, int) and not isinstance(when, bool) and when >= 0:
        return when
    if isinstance(when, str) and when.endswith("%"):
        try:
            share = float(when[:-1])
        except ValueError:
            share = -1.0
        if 0 <= share <= 100:
            if total_steps is None:
                raise ConfigError(f"moment: expected total_steps beside the percentage {when!r}, got None; give it")
            return round(total_steps * share / 100)
    raise ConfigError(f'moment: expected a number of steps or a percentage such as "50%", got {when!r}')
