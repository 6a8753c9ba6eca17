"""An optimizer's state by the names of parameters, whatever it was read from."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from graftwork.errors import SurgeryError

_FACTORED = ("_row", "_col")


class Layout(Enum):
    """How a stored state tells which parameter is which."""

    POSITIONS = "positions"
    """By their positions, as ``optimizer.state_dict()`` does."""
    NAMES = "names"
    """By names, as ``get_optimizer_state_dict`` of ``torch.distributed.checkpoint.state_dict`` does."""
    FLAT = "flat"
    """By names in every entry, as the same does with ``flatten_optimizer_state_dict``."""


@dataclass(frozen=True)
class NamedState:
    """The state of one optimizer.

    Attributes:
        groups: Its groups of parameters; ``params`` holds their names.
        state: Name of a parameter → what the optimizer keeps of it.
        layout: How it was stored.
    """

    groups: list[dict[str, Any]]
    state: dict[str, dict[str, Any]]
    layout: Layout

    def refuse_unfit(self, model: nn.Module, path: Path) -> None:
        """Refuse the state of another model.

        Args:
            model: The model that the optimizer has trained.
            path: Where the state was, for messages.

        Raises:
            SurgeryError: A name is not the model's or comes twice, or a tensor has not its parameter's shape.
        """
        parameters = dict(model.named_parameters())
        held = [name for group in self.groups for name in group["params"]]
        doubled = next((name for at, name in enumerate(held) if name in held[:at]), None)
        unknown = next((name for name in (*held, *self.state) if name not in parameters), None)
        loose = next((name for name in self.state if name not in held), None)
        for name, what in ((unknown, "is none"), (doubled, "is in two groups"), (loose, "is in no group")):
            if name is not None:
                raise SurgeryError(
                    f"{path}: expected every parameter of {type(model).__name__} in one group at most, got {name!r}, "
                    f"which {what}; is it the optimizer of this checkpoint?"
                )
        for name, entry in self.state.items():
            _refuse_shapes(name, entry, parameters[name], path)


def _refuse_shapes(name: str, entry: Mapping[str, Any], parameter: nn.Parameter, path: Path) -> None:
    for key, value in entry.items():
        if (why := _unlike(key, value, parameter)) is not None:
            raise SurgeryError(
                f"{path}: {key} of {name!r}: expected the shape {tuple(parameter.shape)}, got {why}; "
                "is it the optimizer of this checkpoint?"
            )


def _unlike(key: str, value: Any, parameter: nn.Parameter) -> str | None:
    """What state is, where it can't be the parameter's."""
    if not isinstance(value, Tensor):
        return None if value is None or isinstance(value, (int, float)) else f"a {type(value).__name__}"
    if key.endswith(_FACTORED):
        return str(tuple(value.shape)) if value.numel() > parameter.numel() else None
    return str(tuple(value.shape)) if value.dim() > 0 and value.shape != parameter.shape else None
