"""Steps that every kind of growth shares."""

from typing import Any, Self

from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._attributes import AttributeChange
from graftwork.surgery._transaction import Transaction

__all__ = ["Attempt", "append_log", "count_parameters", "forward_failed", "set_attribute"]


class Attempt:
    """A part of a transaction that is undone unless it is kept."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._kept = False
        self._length = 0

    def __enter__(self) -> Self:
        self._length = self._transaction.length
        return self

    def keep(self) -> None:
        """Let the part stand."""
        self._kept = True

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            self._transaction.undo(to=self._length)


def forward_failed(site: str, error: Exception) -> SurgeryError:
    """Return the error for a user's forward that can't run the grown model."""
    failure = SurgeryError(
        f"the model's forward fails when {site} is wider ({type(error).__name__}: {error}); "
        f"everything was put back. "
        "Its code probably holds the old width as a number that "
        f"graftwork could not find: make it read the width from "
        "its weights or inputs"
    )
    failure.__cause__ = error
    return failure


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def set_attribute(transaction: Transaction, model: nn.Module, change: AttributeChange) -> None:
    """Change one number of a module."""
    owner = model.get_submodule(change.path)
    transaction.step(
        f"attribute {change.path}.{change.name}",
        lambda: setattr(owner, change.name, change.new),
        lambda: setattr(owner, change.name, change.old),
    )


def append_log(transaction: Transaction, model: nn.Module, entry: dict[str, Any]) -> None:
    """Note a growth on the model, so that `save` can write how to rebuild it."""
    old = getattr(model, "_graftwork_log", None)
    transaction.step(
        "log",
        lambda: setattr(model, "_graftwork_log", [*(old or []), entry]),
        lambda: setattr(model, "_graftwork_log", old) if old is not None else vars(model).pop("_graftwork_log", None),
    )
