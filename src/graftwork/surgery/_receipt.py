"""What a growth changes, as values that can be printed, tested and logged."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from graftwork.surgery._attributes import AttributeChange

__all__ = ["SurgeryReceipt", "TensorChange", "describe"]


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


@dataclass(frozen=True)
class SurgeryReceipt:
    """What a growth has changed.

    Attributes:
        kind: ``"widen"`` or ``"deepen"``.
        site: Where.
        method: How new units were filled.
        tensors: Changed and new tensors.
        attributes: Changed numbers of modules.
        optimizer_state: State tensors that were carried, one line each.
        gaps: Probe → largest relative change of the outputs; empty without a check.
        parameters: Number of trainable parameters before and after.
        notes: What a reader should know (fallbacks, modes that could not be run).
        approximations: Norms whose statistics the growth has shifted (``approximate=True``), so that ``gaps`` are no
            rounding; empty where it is exact.
        log: The same as plain data, enough to rebuild the structure without a trace.
    """

    kind: str
    site: str
    method: str
    tensors: tuple[TensorChange, ...]
    attributes: tuple[AttributeChange, ...]
    optimizer_state: tuple[str, ...]
    gaps: dict[str, float]
    parameters: tuple[int, int]
    notes: tuple[str, ...] = ()
    approximations: tuple[str, ...] = ()
    log: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def largest_gap(self) -> float:
        """The largest relative change of the outputs over all probes, 0 without a check."""
        return max(self.gaps.values(), default=0.0)

    def __str__(self) -> str:
        before, after = self.parameters
        head = f"{self.kind} {self.site} ({self.method}): {before:,} → {after:,} parameters"
        lines = [head, describe(self.tensors, self.attributes)]
        if self.optimizer_state:
            lines.append(f"  optimizer state carried: {len(self.optimizer_state)} tensors")
        if self.gaps:
            lines.append(f"  largest relative change of the outputs: {self.largest_gap:.1e} over {len(self.gaps)} runs")
        lines += [f"  approximate, not rounding: {text}" for text in self.approximations]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(line for line in lines if line)


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
