"""Which losses of a stage are recorded: every one at first, and ever fewer later on."""

from math import isfinite
from typing import Literal

from graftwork.evolution import SearchState
from graftwork.runs import LossRow
from graftwork.training import Schedule

_EACH = 6
"""Below 2 to this power every update is recorded, and up to each further power of two half of that number."""


class LossLog:
    """Losses of a stage that are not written yet; which these are depends on the numbers of the updates alone.

    Args:
        stage: ``"search"`` or ``"control"``.
        schedule: Progress of the stage → factor on the learning rates.
        step: Updates of the stage so far.
    """

    def __init__(self, stage: Literal["search", "control"], schedule: Schedule, step: int) -> None:
        self._stage: Literal["search", "control"] = stage
        self._schedule, self._step = schedule, step
        self._rows: list[LossRow] = []

    def add(self, state: SearchState, loss: float, progress: float) -> None:
        """Note the loss of an update, or of those since the last call, where it is one to be recorded."""
        before, self._step = self._step, state.step
        every = 2 ** max(0, state.step.bit_length() - _EACH)
        if state.step // every > before // every and isfinite(loss):
            rate = self._schedule(progress)
            self._rows.append(LossRow("loss", self._stage, state.generation, state.step, round(loss, 6), rate))

    def take(self) -> list[LossRow]:
        """Return the rows that are not written yet, and forget them."""
        rows, self._rows = self._rows, []
        return rows
