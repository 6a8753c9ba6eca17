"""Changes of tensors and of numbers, as values that can be printed, tested and logged."""

from collections.abc import Sequence
from dataclasses import dataclass

from graftwork.surgery._attributes import AttributeChange


@dataclass(frozen=True)
class TensorChange:
    """One parameter or buffer that changes.

    Attributes:
        name: Name in the model.
        old_shape: Shape before; None for a new tensor.
        new_shape: Shape after.
        role: ``"makes"`` (its rows are the channels), ``"reads"`` (it sums over them), ``"both"`` or
            ``"new"``.
    """

    name: str
    old_shape: tuple[int, ...] | None
    new_shape: tuple[int, ...]
    role: str


def describe(tensors: Sequence[TensorChange], attributes: Sequence[AttributeChange]) -> str:
    """Return a table of changes, one line each."""
    width = max((len(change.name) for change in tensors), default=0)
    lines = []
    for change in tensors:
        old = "new" if change.old_shape is None else _shape(change.old_shape)
        lines.append(f"  {change.role:<5} {change.name:<{width}}  {old} → {_shape(change.new_shape)}")
    lines += [f"  sets  {change}" for change in attributes]
    return "\n".join(lines)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) if shape else "scalar"
