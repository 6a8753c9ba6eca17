"""When the loss of a training stops falling."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from graftwork.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Plateau:
    """The moment at which the loss stops falling, for a `GrowthSchedule`, whose ``observe`` is told the losses.

    Windows of steps follow each other from the start of the training, and start again at every growth. The moment has
    come when the mean loss of a window is not lower than that of the window before by more than the
    share ``threshold``. Each plateau is one moment: two of them in a schedule come one after the other.

    Attributes:
        window: Optimizer steps in a window; long enough that the mean over one hardly varies by chance.
        threshold: Largest share by which the mean loss of a window may be lower than that of the one before.

    Example:
        >>> Plateau(200)
        Plateau(window=200, threshold=0.01)
    """

    window: int
    threshold: float = 0.01

    def __post_init__(self) -> None:
        if type(self.window) is not int or self.window < 1:
            raise ConfigError(f"window: expected a number of steps above 0, got {self.window!r}")
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if not number or not 0 <= self.threshold < 1:
            raise ConfigError(f"threshold: expected a share from 0 to below 1, got {self.threshold!r}")

    def reached(self, before: float, now: float) -> bool:
        """Tell whether the loss has stopped falling.

        Args:
            before: Mean loss of a window.
            now: Mean loss of the window after it.
        """
        return now >= before - self.threshold * abs(before)


class LossWindows:
    """Mean losses of a training over windows of steps that follow each other."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a first window, without one before it."""
        self._before: float | None = None
        self._begin()

    def _begin(self) -> None:
        self._steps, self._count, self._total = 0, 0, 0.0
        self._unread: list[Tensor] = []

    def add(self, loss: float | Tensor) -> None:
        """Take a loss into the window; one that is not finite is passed over.

        A tensor is read at the end of the window, so that no other step waits for the device.
        """
        if isinstance(loss, Tensor):
            self._unread.append(loss.detach().clone().reshape(()))
        else:
            self._count_in(float(loss))

    def _count_in(self, number: float) -> None:
        if math.isfinite(number):
            self._count += 1
            self._total += number

    def _read(self) -> None:
        for loss in self._unread:
            self._count_in(float(loss))
        self._unread.clear()

    def ends(self, plateau: Plateau) -> bool:
        """Tell whether the next step is the last of its window, and the loss has stopped falling."""
        if self._before is None or self._steps + 1 < plateau.window:
            return False
        self._read()
        return self._count > 0 and plateau.reached(self._before, self._total / self._count)

    def step(self, plateau: Plateau) -> None:
        """Count a step.

        Raises:
            ConfigError: The window is over and no finite loss has been told.
        """
        self._steps += 1
        if self._steps < plateau.window:
            return
        self._read()
        if not self._count:
            raise ConfigError(
                f"{plateau}: expected losses that are finite, got none in {self._steps} steps; call the schedule's "
                "observe(loss) after each step, or make the window longer than the steps between two logs"
            )
        self._before = self._total / self._count
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        self._read()
        return {"before": self._before, "steps": self._steps, "count": self._count, "total": self._total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._before, self._steps = state["before"], state["steps"]
        self._count, self._total = state["count"], state["total"]
