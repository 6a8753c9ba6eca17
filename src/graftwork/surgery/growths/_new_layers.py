"""The edit that inserting layers makes: copies of entries in a stack, and every number that follows."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.surgery._attributes import AttributeChange, logged_change
from graftwork.surgery._changes import TensorChange
from graftwork.surgery._check import Check, Thoroughness
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.growths._growth import Edit, Subject
from graftwork.surgery.growths._undo import TakeOut, Undo
from graftwork.surgery.layers import (
    Origins,
    Stack,
    Uses,
    entry_copy,
    find_stack,
    freeze,
    join_groups,
    origins,
    replace_configs,
    set_numbers,
    shared_tensors,
    untrained,
)


class NewLayers(Edit):
    """Copies of some entries of a stack become entries of their own.

    Args:
        subject: The traced model and what goes along.
        stack: What grows, and where.
        init: How the copies start.
        train: What trains afterwards.
        approximate: Whether layers that can't start as the identity are allowed.
        thorough: How much is checked.
        like: Position of the entry that is copied. None takes the ones before the new ones.
    """

    def __init__(
        self,
        subject: Subject,
        stack: Stack,
        *,
        init: str = "zero-out",
        train: str = "all",
        approximate: bool = False,
        thorough: Thoroughness = True,
        like: int | None = None,
    ) -> None:
        self._subject, self._stack, self._thorough = subject, stack, thorough
        self._train = train
        self._call = subject.graph.probes[0].call
        self._uses = Uses({})
        self._from: Origins = origins(subject.graph, stack, self._call, init=init, approximate=approximate, like=like)
        self._paths = tuple(stack.at(stack.grown_keys[place]) for place in stack.new)
        self._shared = [shared_tensors(subject.model, entry) for entry in stack.entries]
        self._layers: list[nn.Module] = []
        self._frozen: tuple[str, ...] = ()
        self._pairs: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        self.sites = self._paths
        self.label = ", ".join(self._paths)
        self.method = init
        self.attributes, self.configs = self._from.attributes, self._from.configs
        self.approximations, self.notes = self._from.approximations, (*subject.graph.notes, *self._from.notes)
        self.details = tuple(self._details())
        self.tensors = tuple(self._new_tensors())

    def _details(self) -> Iterator[str]:
        for path, source, how in zip(self._paths, self._from.sources, self._from.details, strict=True):
            yield f"{path}: a copy of {self._stack.at(self._stack.own[source][0])}{how}"
        moved = [f"{old} → {new}" for old, new in self._stack.renames.items() if old != new]
        if moved:
            yield f"moved in {self._stack.path}: {', '.join(moved[:8])}{', …' if len(moved) > 8 else ''}"

    def _new_tensors(self) -> Iterator[TensorChange]:
        for path, source in zip(self._paths, self._from.sources, strict=True):
            entry = self._stack.entries[source]
            for leaf, tensor in [*entry.named_parameters(), *entry.named_buffers()]:
                if leaf not in self._shared[source]:
                    yield TensorChange(f"{path}.{leaf}", None, tuple(tensor.shape), "new")

    def make(self, transaction: Transaction) -> list[str]:
        """See `Edit.make`."""
        subject, model = self._subject, self._subject.model
        if self._thorough is True:
            self._uses = Uses.before(model, self._call)
        self._layers = self._copies(model, self._stack)
        self._pairs = dict(self._parameters())
        self._wake()
        self._stack.insert(transaction, self._layers)
        for mirror in subject.mirrors:
            stack = self._stack.on(mirror)
            stack.insert(transaction, self._copies(mirror, stack))
        for one in (model, *subject.mirrors):
            set_numbers(transaction, one, self.attributes)
            replace_configs(transaction, one, self.configs)
        join_groups(transaction, subject.optimizers, model, list(self._pairs.values()), self._stack.renamed)
        if self._train == "new":
            new = set(self._pairs)
            self._frozen = tuple(n for n, p in model.named_parameters() if p.requires_grad and n not in new)
            freeze(transaction, model, [new for new, _ in self._pairs.values() if new.requires_grad])
        return []

    def _copies(self, model: nn.Module, stack: Stack) -> list[nn.Module]:
        layers = [entry_copy(model, stack.entries[source]) for source in self._from.sources]
        for layer, start in zip(layers, self._from.starts, strict=True):
            start(layer)
        return layers

    def _parameters(self) -> Iterator[tuple[str, tuple[nn.Parameter, nn.Parameter]]]:
        """Name of each new parameter → the parameter and its original."""
        for path, source, layer in zip(self._paths, self._from.sources, self._layers, strict=True):
            originals = dict(self._stack.entries[source].named_parameters())
            for leaf, parameter in layer.named_parameters():
                if leaf not in self._shared[source]:
                    yield f"{path}.{leaf}", (parameter, originals[leaf])

    def _wake(self) -> None:
        """Let the copy of a layer that is frozen as a whole train: it was frozen as a part of the model before."""
        for source, path in zip(self._from.sources, self._paths, strict=True):
            own = [new for name, (new, _) in self._pairs.items() if name.startswith(f"{path}.")]
            if not any(parameter.requires_grad for parameter in self._stack.entries[source].parameters()):
                for parameter in own:
                    parameter.requires_grad_(parameter.is_floating_point())

    # -- check
    # ---------------------------------------------------------------------------------------------------------------

    def settle(self, transaction: Transaction, check: Check) -> tuple[AttributeChange, ...]:
        """See `Edit.settle`."""
        if not check.runs:
            return self.configs
        ran: set[nn.Module] = set()
        handles = [layer.register_forward_hook(lambda module, *_: ran.add(module)) for layer in self._layers]
        try:
            worst, where = check.compare(transaction), "the example"
            if self._uses.runs:
                other, use = self._uses.compare(self._subject.model)
                worst, where = (other, use) if other > worst else (worst, where)
        except SurgeryError:
            raise
        except Exception as error:
            used = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
            raise SurgeryError(
                f"the model's forward fails with new layers in {self._stack.path!r}{used} ({type(error).__name__}: "
                f"{error}); everything was put back. Its code probably holds the number of layers, or something for "
                "each layer, where it could not be found: make it read both from the list"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        check.gaps.update(self._uses.gaps)
        self._refuse_idle(ran)
        self._refuse_change(worst, where, check)
        if self._thorough is True and not self.approximations:
            self._note_untrained()
        return self.configs

    def _refuse_idle(self, ran: set[nn.Module]) -> None:
        for path, layer in zip(self._paths, self._layers, strict=True):
            if layer not in ran:
                raise SurgeryError(
                    f"{path!r} would never run: the forward does not go through all entries of {self._stack.path!r}; "
                    "everything was put back. It probably counts the layers itself, or walks another list beside it"
                )

    def _refuse_change(self, worst: float, where: str, check: Check) -> None:
        if self.approximations and math.isfinite(worst):
            if not self._uses.keeps_cache():
                raise NotPreservedError(
                    f"inserting {self.label}: expected steps with a cache to give what the full forward gives, as "
                    "before, got others; everything was put back. Two layers probably share one slot of the cache"
                )
            return
        if worst <= 1.0:
            return
        raise NotPreservedError(
            f"inserting {self.label}: expected the same outputs within rounding, got a relative change of "
            f"{check.largest_gap:.2e} in {where}; everything was put back{self._suspicion()}"
        )

    def _suspicion(self) -> str:
        """Which of the changed numbers the forward probably computes with."""
        kinds = list(dict.fromkeys(self._changed_kinds()))
        if kinds:
            return (
                f"; entries of {self._stack.path!r} alternate in {kinds[:3]}: insert as many at one place as keep step"
            )
        inside = [c.name for c in self.attributes if self._stack.holds(c.path) and type(c.old) is int]
        if inside:
            names = list(dict.fromkeys(inside))[:3]
            return (
                f"; the forward probably computes with {names}, the layers' own places: insert at the end, after=[-1]"
            )
        return ""

    def _changed_kinds(self) -> Iterator[str]:
        """Numbers of old entries that change otherwise than by the way that the entry moves."""
        stack = self._stack
        for place, position in zip(stack.old, range(stack.length), strict=True):
            path = stack.at(stack.grown_keys[place])
            for change in self.attributes:
                inside = f"{change.path}.".startswith(f"{path}.") and type(change.old) is not float
                if inside and not (type(change.old) is int and change.new == change.old + place - position):
                    yield change.name

    def _note_untrained(self) -> None:
        excused = untrained(self._subject.model, self._call, self._pairs)
        if excused:
            some = ", ".join(excused[:4]) + (", …" if len(excused) > 4 else "")
            self.notes = (*self.notes, f"no gradient reaches {some}: by symmetry or routing, as in the originals")

    def undo(self) -> Undo:
        """See `Edit.undo`."""
        keys = tuple(key for key, _ in self._stack.own)
        return TakeOut(self._stack.path, self._stack.places, keys, self._frozen)

    def changes(self, attributes: tuple[AttributeChange, ...]) -> dict[str, Any]:
        """See `Edit.changes`."""
        return {
            "stack": self._stack.path,
            "places": list(self._stack.places),
            "sources": list(self._from.sources),
            "attributes": [[c.path, c.name, c.new] for c in self.attributes],
            "configs": [[c.path, c.name, c.new] for c in self.configs],
        }


def rebuild_layers(model: nn.Module, changes: Mapping[str, Any]) -> None:
    """Give a freshly built model the layers of the grown one, without weights.

    Args:
        model: The model before the growth; changed in place.
        changes: What `NewLayers.changes` has returned.
    """
    stack = find_stack(model, changes["stack"], tuple(changes["places"]))
    layers = [entry_copy(model, stack.entries[source]) for source in changes["sources"]]
    with Transaction() as transaction:
        stack.insert(transaction, layers)
        numbers = [logged_change(model.get_submodule(p), p, n, v) for p, n, v in changes["attributes"]]
        set_numbers(transaction, model, numbers)
        replace_configs(transaction, model, [logged_change(_held(model, p), p, n, v) for p, n, v in changes["configs"]])


def _held(model: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(model.get_submodule(owner), name)
