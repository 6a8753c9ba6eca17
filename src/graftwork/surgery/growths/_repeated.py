"""The edit that repeats what a config counts, heads of keys and values or experts: more of them, each a copy."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from graftwork.errors import SurgeryError
from graftwork.numerics import matched_uniform, reference_scale
from graftwork.surgery._attributes import AttributeChange
from graftwork.surgery._changes import TensorChange
from graftwork.surgery._check import Check, OldChannels, Thoroughness
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._idle import idle_notes
from graftwork.surgery._layout import Ints, Layout, free_units, same_units
from graftwork.surgery._space import Expr, atoms
from graftwork.surgery._tensors import memory_format, place_old
from graftwork.surgery._transaction import Transaction, swap_data
from graftwork.surgery.growths._growth import Edit, Subject
from graftwork.surgery.growths._settling import Settling, new_entries
from graftwork.surgery.growths._undo import NoWay, Shrink, Undo
from graftwork.surgery.layers import built_from, followed, replace_configs, set_numbers, shapes_of
from graftwork.surgery.streams import Tape

Copies: TypeAlias = Callable[[int, int], Ints | None]
"""Old and new length of a dimension → the old entry that each new one copies; None where no copies fit."""
_APART = 0.1


@dataclass(frozen=True)
class Repetition:
    """What is repeated.

    Attributes:
        what: What it is, for messages.
        owner: Path of the module that is built from the config.
        values: Entry of its config → new value.
        copies: Where copies stand.
        hint: What a change of the outputs would come from.
        parts: Whether weights that write what copies make differ, by random parts that add up to zero.
        share: What each copy of such a weight is multiplied by.
    """

    what: str
    owner: str
    values: Mapping[str, Any]
    copies: Copies
    hint: str
    parts: bool = False
    share: float = 1.0


class Repeated(Edit):
    """Tensors along which a config counts something get copies of all of it.

    Args:
        subject: The traced model and what goes along.
        repetition: What is repeated.
        thorough: How much is checked.
    """

    def __init__(self, subject: Subject, repetition: Repetition, *, thorough: Thoroughness) -> None:
        graph, self._repetition = subject.graph, repetition
        self._subject, self._graph = subject, graph
        self.label, self.method = repetition.what, "copies"
        self._layouts, self.configs, self.attributes = _reference(graph, repetition)
        graph.refuse_views(list(self._layouts))
        self._differing = _last(graph, self._layouts) if repetition.parts else set()
        if repetition.parts and not self._differing:
            raise SurgeryError(
                f"{self.label}: expected weights that write what each of them makes, got none; copies would be equal "
                "for good"
            )
        self.sites = tuple(dict.fromkeys(name.rpartition(".")[0] or name for name in self._layouts))
        self.tensors = tuple(
            TensorChange(name, tuple(n.size for n in own), tuple(n.new_size for n in own), "makes")
            for name, own in self._layouts.items()
        )
        self.details = ("new ones are copies of the old ones", *self._details())
        self.notes = (*graph.notes, *idle_notes(graph, self._layouts))
        if repetition.share != 1.0:
            self.notes = (
                *self.notes,
                f"what copies write is multiplied by {repetition.share:.6g}: none weighs less for another",
            )
        self._settling = Settling(graph, Tape.of(graph, graph.probes[0].call), thorough, OldChannels())

    def _details(self) -> list[str]:
        if not self._differing:
            return []
        times = f"{self._repetition.share:.6g} times the old ones, " if self._repetition.share != 1.0 else ""
        some = sorted(self._differing)
        more = f", … ({len(some)} in all)" if len(some) > 2 else ""
        return [f"copies differ by parts that add up to zero: {times}{', '.join(some[:2])}{more}"]

    def make(self, transaction: Transaction) -> list[str]:
        """See `Edit.make`."""
        self._settling.begin()
        subject = self._subject
        seed = subject.seed(zlib.crc32(self.label.encode()))
        for model in (subject.model, *subject.mirrors):
            self._swap(transaction, model, torch.Generator().manual_seed(seed))
            set_numbers(transaction, model, self.attributes)
            replace_configs(transaction, model, self.configs)
        return subject.carry(transaction, self._layouts)

    def _swap(self, transaction: Transaction, model: nn.Module, generator: torch.Generator) -> None:
        tensors = dict([*model.named_parameters(), *model.named_buffers()])
        for name, own in self._layouts.items():
            tensor = tensors[name]
            data, grad = tensor.data, tensor.grad
            new = _copied(data, own)
            if name in self._differing:
                new = self._parted(new, data, own, generator)
            new_grad = None if grad is None else place_old(grad, own)
            transaction.step(
                f"tensor {name}", partial(swap_data, tensor, new, new_grad), partial(swap_data, tensor, data, grad)
            )

    def _parted(self, new: Tensor, old: Tensor, own: list[Layout], generator: torch.Generator) -> Tensor:
        """Copies of a weight that differ by random parts, which add up to zero over all copies of an entry."""
        dim = next(d for d, layout in enumerate(own) if layout.grows)
        std = _APART * self._repetition.share * reference_scale(old)
        part = matched_uniform(new.shape, std=std, generator=generator, dtype=old.dtype, device=old.device)
        source = torch.as_tensor(own[dim].source, device=old.device)
        sums = torch.zeros_like(old).index_add_(dim, source, part)
        part -= sums.index_select(dim, source) / (own[dim].new_size // own[dim].size)
        return new * self._repetition.share + part

    def settle(self, transaction: Transaction, check: Check) -> tuple[AttributeChange, ...]:
        """See `Edit.settle`."""
        masks = partial(new_entries, self._graph, self._layouts)
        found = self._settling.finish(transaction, check, masks, what=self.label, hint=self._repetition.hint)
        self.notes = (*self.notes, *found)
        return self.configs

    def undo(self) -> Undo:
        """See `Edit.undo`."""
        if self._differing:
            return NoWay("copies differ by parts that the old ones have, too")
        return Shrink(self._layouts, OldChannels())

    def changes(self, attributes: tuple[AttributeChange, ...]) -> dict[str, Any]:
        """See `Edit.changes`."""
        return {
            "tensors": {change.name: list(change.new_shape) for change in self.tensors},
            "attributes": [[c.path, c.name, c.new] for c in self.attributes],
            "configs": [[c.path, c.name, c.new] for c in self.configs],
            "buffers": {},
        }


def _reference(
    graph: ChannelGraph, repetition: Repetition
) -> tuple[dict[str, list[Layout]], tuple[AttributeChange, ...], tuple[AttributeChange, ...]]:
    """The layouts of tensors that a model built from the changed config has longer, and what changes beside them.

    Raises:
        SurgeryError: The config can't build that model, or its tensors are no copies of the old ones.
    """
    whole: Any = graph.model.get_submodule(repetition.owner)
    before = built_from(type(whole), whole.config, {})
    if before is None or shapes_of(before) != shapes_of(whole):
        raise SurgeryError(
            f"{repetition.what}: expected a model that its config builds, got one that has grown or holds adapters; "
            "make this growth first"
        )
    after = built_from(type(whole), whole.config, dict(repetition.values))
    changed = ", ".join(f"{name}={value}" for name, value in repetition.values.items())
    if after is None:
        raise SurgeryError(
            f"{repetition.what}: expected a config that builds a model with {changed}, got one that fails"
        )
    old, new, names = shapes_of(whole), shapes_of(after), {id(t): name for name, t in graph.trace.tensors.items()}
    if new.keys() != old.keys() or new == old:
        raise SurgeryError(f"{repetition.what}: expected longer tensors with {changed}, got the same or other ones")
    layouts = {}
    for name, tensor in whole.state_dict(keep_vars=True).items():
        if new[name] != old[name]:
            layouts[names[id(tensor)]] = _layouts(repetition, name, old[name], new[name])
    configs, numbers = followed(repetition.owner, whole, repetition.values, before, after)
    return layouts, configs, numbers


def _layouts(repetition: Repetition, name: str, old: tuple[int, ...], new: tuple[int, ...]) -> list[Layout]:
    found = []
    for size, longer in zip(old, new, strict=False):
        source = repetition.copies(size, longer) if longer > size else np.arange(size) if longer == size else None
        if source is None or len(old) != len(new):
            raise SurgeryError(
                f"{repetition.what}: {name!r}: expected copies of all of it, got {old} → {new} by the config"
            )
        found.append(_layout(source, size))
    return found


def _layout(source: Ints, size: int) -> Layout:
    """Layout of copies: the first of each entry is the old one."""
    if len(source) == size:
        return same_units(size)
    entries, places = np.unique(source, return_index=True)
    old = np.full(len(source), -1)
    old[places] = entries
    return Layout(old, source, free_units(size, len(source) - size).factor, size, size)


def _copied(data: Tensor, own: list[Layout]) -> Tensor:
    new = data
    for dim, layout in enumerate(own):
        if layout.grows:
            new = new.index_select(dim, torch.as_tensor(layout.source, device=data.device))
    return new.contiguous(memory_format=memory_format(data))


def _last(graph: ChannelGraph, layouts: Mapping[str, list[Layout]]) -> set[str]:
    """The weights that write what each unit makes: those that sum over a volume of their own."""
    found = set()
    for name in layouts:
        uses = graph.trace.uses[name]
        read, made = ([use.expr for use in uses if use.consumed is consumed] for consumed in (True, False))
        if read and made and _spread(graph, read) < _spread(graph, made):
            found.add(name)
    return found


def _spread(graph: ChannelGraph, exprs: list[Expr]) -> int:
    """How many tensors hold one of the volumes of some dimensions."""
    return len(graph.touched([var for expr in exprs for var in atoms(expr)]))
