"""The edit that gives a model modules which its config builds at another number, such as a shared expert."""

import copy
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn, optim

from graftwork.errors import SurgeryError
from graftwork.numerics import matched_uniform
from graftwork.surgery._attributes import AttributeChange, check_claim, logged_change
from graftwork.surgery._changes import TensorChange
from graftwork.surgery._check import Check, Interface, Thoroughness
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.carry import adopt, release
from graftwork.surgery.growths._growth import Edit, Subject
from graftwork.surgery.growths._settling import Settling
from graftwork.surgery.growths._undo import NoWay, Undo, put_back
from graftwork.surgery.layers import built_from, followed, replace_configs, set_numbers, shapes_of
from graftwork.surgery.streams import Tape


@dataclass(frozen=True)
class Addition:
    """What is added.

    Attributes:
        what: What it is, for messages.
        owner: Path of the module that is built from the config.
        entry: Name of the config's entry, which is 0 before.
        size: Its value afterwards.
    """

    what: str
    owner: str
    entry: str
    size: int


class NewModules(Edit):
    """A model gets the modules that its config builds at another number; what they write starts at zero.

    Args:
        subject: The traced model and what goes along.
        addition: What is added.
        thorough: How much is checked.
    """

    def __init__(self, subject: Subject, addition: Addition, *, thorough: Thoroughness) -> None:
        self._subject, self._addition, graph = subject, addition, subject.graph
        whole: Any = graph.model.get_submodule(addition.owner)
        before, self._after, larger = _built(whole, addition)
        old, new, twice = shapes_of(whole), shapes_of(self._after), shapes_of(larger)
        fresh = [name for name in new if new[name] != old.get(name)]
        self._silent = {name for name in fresh if _is_silent(new[name], twice[name])}
        if not self._silent or old.keys() - new.keys():
            raise SurgeryError(f"{addition.what}: expected new modules by {addition.entry}={addition.size}, got none")
        self._paths = _places(whole, self._after, fresh)
        held = dict(whole.named_modules())
        self._empty = [held[path] for path in self._paths if path in held]
        self._modules: dict[str, nn.Module] = {}
        self.configs, self.attributes = followed(
            addition.owner, whole, {addition.entry: addition.size}, before, self._after
        )
        under = f"{addition.owner}.".lstrip(".")
        self.sites = tuple(under + path for path in self._paths)
        self.label, self.method = addition.what, "zero-out"
        self.tensors = tuple(TensorChange(under + name, None, new[name], "new") for name in fresh)
        self.details = (f"starts at zero: {', '.join(under + name for name in sorted(self._silent)[:4])}",)
        self.notes = tuple(graph.notes)
        self._settling = Settling(graph, Tape.of(graph, graph.probes[0].call), thorough, Interface())

    def make(self, transaction: Transaction) -> list[str]:
        """See `Edit.make`."""
        self._settling.begin()
        subject, owner = self._subject, self._addition.owner
        seed = subject.seed(zlib.crc32(self.label.encode()))
        for model in (subject.model, *subject.mirrors):
            made = _put_in(transaction, model.get_submodule(owner), self._after, self._paths)
            self._fill(made, torch.Generator().manual_seed(seed))
            set_numbers(transaction, model, self.attributes)
            replace_configs(transaction, model, self.configs)
            self._modules = self._modules or made
        whole = subject.model.get_submodule(owner)
        release(transaction, subject.optimizers, [p for module in self._empty for p in module.parameters()])
        for path, module in self._modules.items():
            adopt(transaction, subject.optimizers, subject.model, whole.get_submodule(path.rpartition(".")[0]), module)
        return []

    @torch.no_grad()
    def _fill(self, made: Mapping[str, nn.Module], generator: torch.Generator) -> None:
        """Zeros in what writes and in vectors; the rest as ``torch.nn.Linear`` makes it."""
        for path, module in made.items():
            for leaf, tensor in [*module.named_parameters(), *module.named_buffers()]:
                tensor.zero_()
                if tensor.dim() > 1 and f"{path}.{leaf}" not in self._silent:
                    std = 1.0 / math.sqrt(3.0 * tensor.shape[-1])
                    tensor.copy_(matched_uniform(tensor.shape, std=std, generator=generator, dtype=tensor.dtype))

    def settle(self, transaction: Transaction, check: Check) -> tuple[AttributeChange, ...]:
        """See `Edit.settle`."""
        hint = "The forward probably divides by the number of experts, or takes their mean"
        found = self._settling.finish(transaction, check, self._masks, what=self.label, hint=hint)
        self.notes = (*self.notes, *found)
        return self.configs

    def _masks(self) -> dict[str, Tensor]:
        new, model = {change.name for change in self.tensors}, self._subject.model
        return {n: torch.ones_like(p, dtype=torch.bool) for n, p in model.named_parameters() if n in new}

    def undo(self) -> Undo:
        """See `Edit.undo`."""
        return NoWay("it has taken the place of modules without entries") if self._empty else TakeOff(self.sites)

    def changes(self, attributes: tuple[AttributeChange, ...]) -> dict[str, Any]:
        """See `Edit.changes`."""
        return {"owner": self._addition.owner, "entry": self._addition.entry, "size": self._addition.size}


@dataclass(frozen=True)
class TakeOff(Undo):
    """Modules lose children that they have gained.

    Attributes:
        paths: Paths of the children.
    """

    paths: tuple[str, ...]

    def apply(
        self,
        transaction: Transaction,
        model: nn.Module,
        optimizers: Sequence[optim.Optimizer],
        numbers: Sequence[AttributeChange],
    ) -> list[str]:
        """See `Undo.apply`."""
        for path in self.paths:
            above, _, name = path.rpartition(".")
            parent = model.get_submodule(above)
            release(transaction, optimizers, list(parent.get_submodule(name).parameters()))
            held = dict(parent._modules)  # noqa: SLF001 - an attribute of None goes back to where it was
            rest = {key: child for key, child in held.items() if key != name}
            _swap(transaction, parent, name, rest, (None,))
        put_back(transaction, model, numbers)
        return []


def _built(whole: Any, addition: Addition) -> tuple[nn.Module, nn.Module, nn.Module]:
    """What the config builds as it is, with the new size, and with twice as much, which tells what the size sizes.

    Raises:
        SurgeryError: It can't build one of them.
    """
    sizes: tuple[dict[str, Any], ...] = ({}, {addition.entry: addition.size}, {addition.entry: 2 * addition.size})
    before, after, larger = (built_from(type(whole), whole.config, values) for values in sizes)
    if before is None or shapes_of(before) != shapes_of(whole):
        raise SurgeryError(
            f"{addition.what}: expected a model that its config builds, got one that has grown or holds adapters; make "
            "this growth first"
        )
    if after is None or larger is None:
        raise SurgeryError(
            f"{addition.what}: expected a config that builds {addition.entry}={addition.size}, got one that fails"
        )
    return before, after, larger


def _is_silent(shape: tuple[int, ...], larger: tuple[int, ...]) -> bool:
    """Whether a weight sums over the new units: what it writes can start at zero."""
    return len(shape) > 1 and shape[-1] != larger[-1]


def _places(whole: nn.Module, after: nn.Module, fresh: Sequence[str]) -> list[str]:
    """Paths of the outermost new modules, and of those whose tensors were empty."""
    found: dict[str, None] = {}
    for name in fresh:
        steps = name.split(".")[:-1]
        paths = [".".join(steps[:at]) for at in range(1, len(steps) + 1)]
        held = {path for path, _ in whole.named_modules()}
        found.setdefault(next((path for path in paths if path not in held), paths[-1]))
    return list(found)


def _put_in(transaction: Transaction, whole: Any, after: Any, paths: Sequence[str]) -> dict[str, nn.Module]:
    """Give a model copies of some of a built model's modules, without weights; returns path → copy."""
    configs, first = dict(_pairs(after.config, whole.config)), next(whole.parameters())
    made = {}
    for path in paths:
        above, _, name = path.rpartition(".")
        parent, there = whole.get_submodule(above), after.get_submodule(above)
        module = copy.deepcopy(there.get_submodule(name), dict(configs))
        like = next((p for p in parent.parameters() if p.numel()), first)
        made[path] = module.to(first.dtype).to_empty(device=like.device).train(parent.training)
        held = dict(parent._modules)  # noqa: SLF001 - the order of children is theirs
        order = [key for key in there._modules if key in held or key == name]  # noqa: SLF001
        _swap(transaction, parent, name, {key: module if key == name else held[key] for key in order}, ())
    return made


def _pairs(built: Any, own: Any) -> list[tuple[int, Any]]:
    """Identity of a built model's configs → the live model's, so that new modules hold those."""
    found = [(id(built), own)]
    for name, value in vars(built).items():
        if hasattr(value, "to_dict"):
            found += _pairs(value, getattr(own, name))
    return found


def _swap(
    transaction: Transaction, parent: nn.Module, name: str, content: Mapping[str, Any], plain: tuple[None, ...]
) -> None:
    """Give a module other children; where one is gone, its name may be a plain attribute of None."""
    held = dict(parent._modules)  # noqa: SLF001
    was = (None,) if name in vars(parent) else ()
    transaction.step(
        f"children of a module: {name}",
        partial(_set_children, parent, name, content, plain),
        partial(_set_children, parent, name, held, was),
    )


def _set_children(parent: nn.Module, name: str, content: Mapping[str, Any], plain: tuple[None, ...]) -> None:
    vars(parent).pop(name, None)
    parent._modules.clear()  # noqa: SLF001
    parent._modules.update(content)  # noqa: SLF001
    if plain:
        vars(parent)[name] = None


def rebuild_modules(model: nn.Module, changes: Mapping[str, Any]) -> None:
    """Give a freshly built model the modules that a growth has added, without weights.

    Args:
        model: The model before the growth; changed in place.
        changes: What `NewModules.changes` has returned.

    Raises:
        SurgeryError: The log is of another model.
    """
    owner, entry, size = changes["owner"], changes["entry"], changes["size"]
    whole: Any = model.get_submodule(owner)
    logged_change(whole.config, f"{owner}.config", entry, size)
    addition = Addition("growth log", owner, entry, size)
    before, after, _ = _built(whole, addition)
    check_claim(
        sum(map(math.prod, shapes_of(after).values())), sum(p.numel() for p in whole.parameters()), f"{entry}={size}"
    )
    old, new = shapes_of(whole), shapes_of(after)
    paths = _places(whole, after, [name for name in new if new[name] != old.get(name)])
    configs, numbers = followed(owner, whole, {entry: size}, before, after)
    with Transaction() as transaction:
        for module in _put_in(transaction, whole, after, paths).values():
            for tensor in [*module.parameters(), *module.buffers()]:
                tensor.data.zero_()
        set_numbers(transaction, model, numbers)
        replace_configs(transaction, model, configs)
