"""A growth of one model: planned, shown, then made all or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from graftwork._html import preformatted
from graftwork.errors import SurgeryError
from graftwork.surgery._agreement import agreed
from graftwork.surgery._attributes import AttributeChange
from graftwork.surgery._changes import TensorChange, describe
from graftwork.surgery._check import Check
from graftwork.surgery._configs import set_values
from graftwork.surgery._guard import Guard, plain_numbers
from graftwork.surgery._pretrained import UNSAVED, refuse_saving, unsaved
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.growths import Edit, ModelGrowth, Subject, Undo

LOG = "_graftwork_log"
"""Attribute of a model that holds the log of its growths."""


@dataclass(frozen=True)
class SurgeryReceipt:
    """What a growth has changed.

    Attributes:
        growth: The growth.
        site: Where: the place or places.
        method: How new units were filled.
        tensors: Changed and new tensors.
        attributes: Changed numbers of modules.
        optimizer_state: State tensors that were carried, one line each.
        gaps: Run of the check → largest relative change of the outputs; empty without a check.
        parameters: Number of trainable parameters before and after.
        notes: What a reader should know (fallbacks, modes that could not be run).
        approximations: Norms whose statistics the growth has shifted (``approximate=True``), so that ``gaps`` are no
            rounding; empty where it is exact.
        log: The growth and its changes as plain data, enough to rebuild the structure without a trace.
        undo: How `graftwork.remove` takes the growth out again.
    """

    growth: ModelGrowth
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
    undo: Undo | None = field(default=None, repr=False, compare=False)

    @property
    def kind(self) -> str:
        """Name of the kind of growth."""
        return self.growth.kind

    @property
    def largest_gap(self) -> float:
        """The largest relative change of the outputs over all runs, 0 without a check."""
        return max(self.gaps.values(), default=0.0)

    def freeze_old(self, model: nn.Module) -> None:
        """Let only what this growth has added train: old parameters are frozen and their gradients dropped.

        Args:
            model: The grown model, changed in place.

        Raises:
            SurgeryError: The growth has added no tensors of its own, or the model has grown since.
        """
        new = {change.name for change in self.tensors if change.role == "new"}
        if not new:
            raise SurgeryError(
                f"freeze_old: expected a growth that adds tensors, got {self.growth!r}; it widens old ones"
            )
        if vars(model).get(LOG, [None])[-1] != self.log:
            raise SurgeryError("freeze_old: expected a model whose last growth is this one; call it before the next")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in new)
            if name not in new:
                parameter.grad = None

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

    def _repr_html_(self) -> str:
        return preformatted(self)


class GrowthPlan:
    """A growth that has been checked and not yet been made; print it, then `apply` it.

    Args:
        growth: The growth.
        subject: The traced model and what goes along.
        without_weights: Whether the model is a stand-in for one on the meta device: the plan is for reading only.

    Attributes:
        growth: The growth.
        edit: What it changes, and how.

    Raises:
        SurgeryError: The model can't be grown like that.
    """

    def __init__(self, growth: ModelGrowth, subject: Subject, *, without_weights: bool = False) -> None:
        self.growth = growth
        self.edit: Edit = growth.edit(subject)
        self._subject, self._without_weights = subject, without_weights

    @property
    def model(self) -> nn.Module:
        """The model that it is for."""
        return self._subject.model

    @property
    def sites(self) -> tuple[str, ...]:
        """The places that will grow."""
        return self.edit.sites

    @property
    def tensors(self) -> tuple[TensorChange, ...]:
        """Every parameter and buffer that will change or be new, old and new shape."""
        return self.edit.tensors

    @property
    def attributes(self) -> tuple[AttributeChange, ...]:
        """Numbers that will change: those of PyTorch's own modules, and of a Hugging Face ``config``.

        Numbers of the user's modules are changed only where the grown model needs it; the receipt lists them.
        """
        return (*self.edit.attributes, *self.edit.configs)

    @property
    def approximations(self) -> tuple[str, ...]:
        """Norms whose statistics the growth will shift; empty where it is exact."""
        return self.edit.approximations

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know."""
        return self.edit.notes

    def __str__(self) -> str:
        return self.told(self.tensors, self.attributes)

    def _repr_html_(self) -> str:
        return preformatted(self)

    def told(self, tensors: Sequence[TensorChange], attributes: Sequence[AttributeChange]) -> str:
        """Return the plan as text, with a table of the changes that are given."""
        lines = [f"{self.growth!r} ({self.edit.method})", *(f"  {line}" for line in self.edit.details)]
        lines.append(describe(tensors, attributes))
        lines += [f"  approximate: {text}" for text in self.approximations]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    @plain_numbers()
    def apply(self) -> SurgeryReceipt:
        """Make the growth, or leave everything as it was.

        Where the model's code can't follow, other ways to make it are tried: the width of heads where their number is
        fixed, all sites but those that can't follow. The receipt says what was made.

        Returns:
            What changed.

        Raises:
            SurgeryError: The model has changed since the plan was made, or its forward fails when grown.
            NotPreservedError: The grown model computes something else (a constant that depends on the width,
                say), and the plan names no approximation.
        """
        if self._without_weights:
            raise SurgeryError(
                "plan: expected one of a model with weights, got one that was made on the meta device; load the "
                "weights and plan again"
            )
        with Guard(self.model, *self._subject.mirrors) as guard, agreed(self.model, weights=True):
            return self._apply(guard)

    def _apply(self, guard: Guard) -> SurgeryReceipt:
        self._refuse_changed()
        check = Check(self.model, self._subject.graph.probes, thorough=self.growth.check)
        try:
            return self._make(self.edit, check, guard)
        except SurgeryError as error:
            problem = error
        for edit in self.growth.alternatives(self._subject, check, problem):
            try:
                return self._make(edit, check, guard)
            except SurgeryError:
                continue
        raise problem

    def _refuse_changed(self) -> None:
        now = dict([*self.model.named_parameters(), *self.model.named_buffers()])
        for change in self.tensors:
            tensor = now.get(change.name)
            shape = None if change.old_shape is None or tensor is None else tuple(tensor.shape)
            if shape != change.old_shape or tensor is not self._subject.graph.trace.tensors.get(change.name):
                raise SurgeryError(f"{change.name!r} has changed since the plan was made; plan again")

    def _make(self, edit: Edit, check: Check, guard: Guard) -> SurgeryReceipt:
        before = count_parameters(self.model)
        with guard.transaction() as transaction:
            carried = edit.make(transaction)
            settled = edit.settle(transaction, check)
            attributes = (*edit.attributes, *settled)
            for mirror in self._subject.mirrors:
                set_values(transaction, mirror, attributes)
            log: dict[str, Any] = {"growth": self.growth.to_dict(), "changes": edit.changes(attributes)}
            if paths := unsaved(self.model, edit.tensors, attributes):
                log[UNSAVED] = paths
            _append_log(transaction, self.model, log)
            for one in (self.model, *self._subject.mirrors):
                refuse_saving(transaction, one, vars(self.model)[LOG])
            undo = edit.undo()
            # Inside: an interruption while it is made still undoes the growth.
            return SurgeryReceipt(
                growth=self.growth,
                site=edit.label,
                method=edit.method,
                tensors=edit.tensors,
                attributes=attributes,
                optimizer_state=tuple(carried),
                gaps=dict(check.gaps),
                parameters=(before, count_parameters(self.model)),
                notes=edit.notes,
                approximations=edit.approximations,
                log=log,
                undo=undo,
            )


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _append_log(transaction: Transaction, model: nn.Module, entry: dict[str, Any]) -> None:
    """Note a growth on the model, so that `save_model` can write how to rebuild it."""
    old = vars(model).get(LOG)
    transaction.step(
        "log",
        lambda: setattr(model, LOG, [*(old or []), entry]),
        lambda: setattr(model, LOG, old) if old is not None else vars(model).pop(LOG, None),
    )
