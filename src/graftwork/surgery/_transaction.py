"""All or nothing: a list of undo steps that runs backwards after any error."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

__all__ = ["Transaction", "swap_data"]


class Transaction:
    """Context in which every change knows how to be undone.

    Leaving it with an exception (any, also ``KeyboardInterrupt``) undoes every step in reverse order and lets
    the exception pass.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def __enter__(self) -> Self:
        return self

    def step(self, name: str, change: Callable[[], object], undo: Callable[[], object]) -> None:
        """Make one change.

        Args:
            name: What changes, for logs and fault tests.
            change: Makes the change. May fail half-way: ``undo`` then runs too.
            undo: Restores the state before, whatever ``change`` reached.
        """
        self._undo.append(undo)
        self.before_step(name)
        change()

    def before_step(self, name: str) -> None:
        """Do nothing; fault tests raise here."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.undo()

    @property
    def length(self) -> int:
        """Number of steps so far."""
        return len(self._undo)

    def undo(self, *, to: int = 0) -> None:
        """Undo steps, last first, until ``to`` of them are left."""
        while len(self._undo) > to:
            self._undo.pop()()


def swap_data(tensor: Tensor, data: Tensor, grad: Tensor | None) -> None:
    """Give a parameter or buffer other data of another shape; the object, its flags and hooks stay.

    Args:
        tensor: Parameter or buffer, changed in place.
        data: New data, same dtype.
        grad: New gradient of the shape of ``data``, or None.
    """
    if tensor.shape != data.shape:
        # A graph of the last step may still be alive (a loss in a variable) and hold this tensor's gradient
        # accumulator with the old shape. Passing through another dtype makes autograd drop it.
        other = torch.float64 if tensor.dtype != torch.float64 else torch.float32
        tensor.grad = None
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = data
    tensor.grad = grad
