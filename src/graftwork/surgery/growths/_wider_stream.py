"""The edit that widening a residual stream makes."""

import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.surgery._attributes import AttributeChange
from graftwork.surgery._calls import TRAINING
from graftwork.surgery._check import Check, Interface, OldChannels, Thoroughness
from graftwork.surgery._idle import idle_notes
from graftwork.surgery._methods import method_named
from graftwork.surgery._tensors import place_old
from graftwork.surgery._transaction import Transaction, swap_data
from graftwork.surgery.growths._growth import Edit, Subject
from graftwork.surgery.growths._resize import resize_tensors, tensor_change
from graftwork.surgery.growths._settling import Settling, new_entries
from graftwork.surgery.growths._undo import NoWay, Shrink, Undo
from graftwork.surgery.layers import replace_configs, set_numbers
from graftwork.surgery.streams import (
    Kind,
    Tape,
    Wish,
    average_gain,
    choose,
    filled,
    holds,
    scaled,
    set_target,
)

_METHODS = {Kind.ZERO: "zeros", Kind.MEAN: "means", Kind.COPY: "copies"}
_HOLDS = {
    Kind.ZERO: "stay zero",
    Kind.MEAN: "carry the mean of the old ones",
    Kind.COPY: "are copies of the old ones, which readers hear by different shares",
}


class WiderStream(Edit):
    """The residual streams of a model get new channels.

    Args:
        subject: The traced model and what goes along.
        tape: One run of the model.
        wish: What shall grow.
        thorough: How much is checked.
    """

    def __init__(self, subject: Subject, tape: Tape, wish: Wish, *, thorough: Thoroughness) -> None:
        graph = subject.graph
        self._subject, self._graph = subject, graph
        returned = any(holds(tape, ref, wish.streams) for ref in tape.outputs)
        self._interface = OldChannels() if returned else Interface()
        self._settling = Settling(graph, tape, thorough, self._interface)
        self._way = way = choose(graph, tape, graph.probes[0].call, wish)
        widths = ", ".join(f"{var.size} → {var.size + more}" for var, more in wish.streams.items())
        self.label = f"the residual stream ({widths})"
        self._seed = zlib.crc32(self.label.encode())
        self._roles, self._beside = way.reading.roles, method_named(wish.method)
        self._buffers = {name: graph.trace.tensors[name].detach().clone() for name, _ in way.target.buffers}
        self.method = _METHODS[way.reading.new]
        self.sites = tuple(dict.fromkeys(name.rpartition(".")[0] or name for name in way.layouts))
        moved = [name for name in graph.trace.tensors if way.factor(name) != 1.0 and name not in way.layouts]
        assert not moved  # only what holds the stream has a power of its own
        self.tensors = tuple(tensor_change(graph, name, own, way.maps) for name, own in way.layouts.items())
        self.attributes, self.configs = way.target.attributes, way.target.configs
        self.details = tuple(self._details())
        self.notes = (*graph.notes, *idle_notes(graph, way.layouts), *self._dropouts())
        if wish.factor is not None and len(way.target.growth) == len(wish.streams):
            self.notes = (*self.notes, "only the stream grows: no model with more heads and larger inner widths fits")
        if returned:
            self.notes = (
                *self.notes,
                "the model also returns the stream itself, which is wider: old channels are as before",
            )

    def _details(self) -> list[str]:
        """What new channels hold, and what is scaled."""
        lines = [f"new channels {_HOLDS[self._way.reading.new]}"]
        factors: dict[float, list[str]] = {}
        for name in self._way.layouts:
            if (factor := self._way.factor(name)) != 1.0:
                factors.setdefault(factor, []).append(name)
        for factor, names in factors.items():
            some = ", ".join(names[:4]) + (f", … ({len(names)} in all)" if len(names) > 4 else "")
            lines.append(f"times {factor:.6g}: {some}")
        return lines

    def _dropouts(self) -> list[str]:
        """Dropout on a stream whose new channels carry means draws other numbers for them."""
        if self._way.reading.new is Kind.ZERO:
            return []
        rates = [
            path
            for path, module in self._graph.model.named_modules()
            if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0  # noqa: SLF001 - the base of dropouts
        ]
        random = any(probe.mode == TRAINING and probe.random for probe in self._graph.probes)
        if not rates and not random:
            return []
        where = f" ({rates[0]}, …)" if rates else ""
        return [f"exact without dropout: in training, dropout on the stream{where} hits its new channels by themselves"]

    # -- the change
    # --------------------------------------------------------------------------------------------------------------

    def make(self, transaction: Transaction) -> list[str]:
        """See `Edit.make`."""
        subject, way, model = self._subject, self._way, self._subject.model
        self._settling.begin()
        seed = subject.seed(self._seed)
        for one in (model, *subject.mirrors):
            tensors = dict([*one.named_parameters(), *one.named_buffers()])
            self._swap(transaction, tensors, torch.Generator().manual_seed(seed))
            set_target(transaction, one, way.target)
        return subject.carry(transaction, way.layouts)

    def _swap(self, transaction: Transaction, tensors: Mapping[str, Tensor], generator: torch.Generator) -> None:
        gains = {name: tensors[name].detach().clone() for name in self._roles.scaling}
        for name in sorted(self._way.layouts, key=lambda name: -tensors[name].numel()):
            tensor, own = tensors[name], self._way.layouts[name]
            data, grad = tensor.data, tensor.grad
            new = self._new(name, tensor, gains, generator)
            new_grad = place_old(grad, own) if grad is not None else None
            transaction.step(
                f"tensor {name}", partial(swap_data, tensor, new, new_grad), partial(swap_data, tensor, data, grad)
            )

    def _new(self, name: str, tensor: Tensor, gains: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        own, roles = self._way.layouts[name], self._roles
        fills = {dim: fill for (other, dim), (fill, _) in roles.fills.items() if other == name}
        weights = {dim: _relative(gains[gain]) for (other, dim), gain in roles.weighted.items() if other == name}
        offset = roles.offsets.get(name, 0.0)
        old = scaled(tensor.data, self._way.factor(name), offset)
        fixed = not isinstance(tensor, nn.Parameter)
        free: dict[int, list[tuple[int, int]]] = {}
        for rows in sorted(roles.free, key=lambda rows: rows.start):
            if rows.name == name:
                free.setdefault(rows.dim, []).append((rows.start, rows.stop))
        new = filled(old, own, fills, weights=weights, free=free, generator=generator, fixed=fixed)
        if name in roles.scaling:
            value = average_gain(old)
            dim = next(d for d, layout in enumerate(own) if layout.grows)
            places = torch.as_tensor(own[dim].new, device=new.device)
            new[tuple(places if d == dim else slice(None) for d in range(new.dim()))] = value
        return new

    def undo(self) -> Undo:
        """See `Edit.undo`."""
        way = self._way
        if way.reading.new is Kind.COPY:
            return NoWay("new channels are copies, and what reads the stream hears the old ones by other shares")
        if not self._beside.keeps_old_weights:
            return NoWay(f"{self._beside!r} has changed old weights, those that read the new units")
        offsets = self._roles.offsets
        scales = {name: (way.factor(name), offsets.get(name, 0.0)) for name in way.layouts if way.factor(name) != 1.0}
        return Shrink(way.layouts, self._interface, scales, self._buffers)

    # -- check
    # ---------------------------------------------------------------------------------------------------------------

    def settle(self, transaction: Transaction, check: Check) -> tuple[AttributeChange, ...]:
        """See `Edit.settle`."""
        what = f"widening {self.label}"
        hint = "The forward probably deals out channels or heads by a rule of its own"
        masks = partial(new_entries, self._graph, self._way.layouts)
        found = self._settling.finish(transaction, check, masks, what=what, hint=hint)
        self.notes = (*self.notes, *found)
        return self.configs

    def changes(self, attributes: tuple[AttributeChange, ...]) -> dict[str, Any]:
        """See `Edit.changes`."""
        target = self._way.target
        return {
            "tensors": {change.name: list(change.new_shape) for change in self.tensors},
            "attributes": [[c.path, c.name, c.new] for c in target.attributes],
            "configs": [[c.path, c.name, c.new] for c in target.configs],
            "buffers": {name: value.tolist() for name, value in target.buffers},
        }


def _relative(gain: Tensor) -> Tensor:
    """Gains over that of the new channels."""
    mean = average_gain(gain)
    return gain.double().flatten() / mean if mean else torch.ones(gain.numel(), dtype=torch.float64)


def rebuild_stream(model: nn.Module, changes: Mapping[str, Any]) -> None:
    """Give a freshly built model the widths of the grown one, without weights.

    Args:
        model: The model before the growth; changed in place.
        changes: What `WiderStream.changes` has returned.

    Raises:
        SurgeryError: The log is of another model.
    """
    resize_tensors(model, changes["tensors"])
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for name, value in changes["buffers"].items():
        tensors[name].data = torch.tensor(value, dtype=tensors[name].dtype, device=tensors[name].device)
    with Transaction() as transaction:
        set_numbers(transaction, model, _changes(changes["attributes"]))
        replace_configs(transaction, model, _changes(changes["configs"]))


def _changes(entries: Sequence[Sequence[Any]]) -> list[AttributeChange]:
    return [AttributeChange(path, name, None, value) for path, name, value in entries]
