"""All or nothing: a list of steps that is undone backwards after any error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import torch
from torch import Tensor


class Transaction:
    """Context in which every change knows how to be undone.

    Leaving it with an exception (any, also ``KeyboardInterrupt``) undoes every step in reverse order and lets
    the exception pass.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[Callable[[], object], Callable[[], object]]] = []

    def __enter__(self) -> Self:
        return self

    def step(self, name: str, change: Callable[[], object], undo: Callable[[], object]) -> None:
        """Make one change.

        Args:
            name: What changes, for logs and fault tests.
            change: Makes the change; may be called again after ``undo``. May fail half-way: ``undo`` then runs too.
            undo: Restores the state before, whatever ``change`` reached, also if it has run already.
        """
        self._steps.append((change, undo))
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
        return len(self._steps)

    def undo(self, *, to: int = 0) -> None:
        """Undo steps, last first, until ``to`` of them are left."""
        while len(self._steps) > to:
            self._steps[-1][1]()
            del self._steps[-1]  # only now: what was interrupted is undone again

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Inside, everything is as before the transaction; afterwards all changes stand again."""
        for _, undo in reversed(self._steps):
            undo()
        yield
        for change, _ in self._steps:
            change()


class Attempt:
    """A stretch of a transaction that is undone unless it is kept."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._kept = False
        self._length = 0

    def __enter__(self) -> Self:
        self._length = self._transaction.length
        return self

    def keep(self) -> None:
        """Let the stretch stand."""
        self._kept = True

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            self._transaction.undo(to=self._length)


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
