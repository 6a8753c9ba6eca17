"""The edit that grows what a model gives or takes: tensors get longer at their end, and every number follows."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.surgery._attributes import AttributeChange, is_size, logged_size, set_attribute, standard_attributes
from graftwork.surgery._changes import TensorChange
from graftwork.surgery._check import Check, Thoroughness
from graftwork.surgery._layout import free_units, layout_of, same_units
from graftwork.surgery._space import Var, atoms
from graftwork.surgery._tensors import memory_format
from graftwork.surgery._transaction import Attempt, Transaction, swap_data
from graftwork.surgery.carry import ParameterGrowth, carry_state
from graftwork.surgery.growths._growth import Edit, Subject
from graftwork.surgery.growths._resize import resize_tensors
from graftwork.surgery.growths._undo import Shrink, Undo, put_back
from graftwork.surgery.interface import (
    Description,
    GrownInterface,
    Place,
    Places,
    companions,
    describe,
    guessed_numbers,
    is_head,
    is_inside,
    numbers,
    refuse_asleep,
    refuse_left_behind,
    refuse_unknown_ids,
)
from graftwork.surgery.layers import Uses, replace_configs

_LABELS = ("id2label", "label2id")


class NewUnits(Edit):
    """Some dimensions of a model's outputs or inputs get longer.

    Args:
        subject: The traced model and what goes along.
        places: What grows.
        extra: Number of new units.
        init: What new rows hold.
        thorough: How much is checked.
    """

    def __init__(
        self, subject: Subject, places: Places, extra: int, *, init: str = "zero", thorough: Thoroughness = True
    ) -> None:
        graph = subject.graph
        self._subject, self._places, self._extra, self._thorough = subject, places, extra, thorough
        self._interface = GrownInterface(places.size, extra, places.inputs)
        self._uses = Uses({})
        self.sites, self.label, self.method = places.sites, ", ".join(places.sites), init
        wanted = {place.name: place.dim for place in places.places}
        described = describe(graph.model, wanted, places.size, extra)
        self._all = list(places.places)
        notes: tuple[str, ...] = ()
        if isinstance(described, Description):
            more, notes = companions(graph, places, described, init)
            self._all += more
            self.configs, self.attributes = described.configs, described.attributes
        else:
            notes = (described,) if described else _left_alone(subject, places)
        self._owner = described.owner if isinstance(described, Description) else None
        refuse_left_behind(graph, [place.name for place in self._all], places.size, described=self._owner)
        self._tables = {place.name: held for place in self._all if (held := _embeddings(subject, place))}
        self._growths = {place.name: self._growth(place) for place in self._all}
        self.tensors = tuple(self._tensor_changes())
        self.attributes = tuple(self._numbers())
        self.notes = (*graph.notes, *notes, *self._buffers())
        kind = "inputs" if places.inputs else "outputs" if places.reach_outputs else "rows"
        self.details = (f"{kind} of {self.label}: {places.size} → {places.size + extra}",)

    def _buffers(self) -> Iterator[str]:
        for place in self._all:
            fixed = not isinstance(self._subject.graph.trace.tensors[place.name], nn.Parameter)
            if fixed and not self._places.inputs:
                yield f"the buffer {place.name!r} gets {place.fill} for new outputs, and nothing trains it: set it"

    def _tensor_changes(self) -> Iterator[TensorChange]:
        for place in self._all:
            growth = self._growths[place.name]
            new = tuple(layout.new_size for layout in growth.layouts)
            yield TensorChange(place.name, growth.old_shape, new, place.role)

    def _numbers(self) -> Iterator[AttributeChange]:
        """Numbers of PyTorch's own modules, and of the user's where no config tells them."""
        graph, size = self._subject.graph, self._places.size
        shapes = graph.shapes_after({name: growth.layouts for name, growth in self._growths.items()})
        volumes: dict[Var, Any] = {}
        for place in self._all:
            own = [place.volume] if place.volume else atoms(graph.trace.spaces[place.name][place.dim])
            for var in own:
                volumes[var] = free_units(var.size, self._extra)
        found = [*self.attributes, *standard_attributes(graph, volumes, shapes)]
        counted = numbers(graph.model, list(self._growths), size, self._extra, inputs=bool(self._places.inputs))
        self._counted = [c for c in counted if self._owner is None or not is_inside(c.path, self._owner)]
        found += self._counted
        yield from {(change.path, change.name): change for change in found}.values()

    # -- change
    # ---------------------------------------------------------------------------------------------------------------

    def make(self, transaction: Transaction) -> list[str]:
        """See `Edit.make`."""
        model = self._subject.model
        if self._thorough is True:
            self._uses = Uses.before(model, self._subject.graph.probes[0].call)
        grown = []
        for place in self._all:
            tensor = self._subject.graph.trace.tensors[place.name]
            self._swap(transaction, place, tensor)
            for mirror in self._subject.mirrors:
                self._swap(transaction, place, dict([*mirror.named_parameters(), *mirror.named_buffers()])[place.name])
            if isinstance(tensor, nn.Parameter):
                grown.append((place.name, tensor, self._growths[place.name]))
        for attribute in self.attributes:
            set_attribute(transaction, model, attribute)
        replace_configs(transaction, model, self.configs)
        return carry_state(transaction, self._subject.optimizers, grown)

    def _growth(self, place: Place) -> ParameterGrowth:
        shape = tuple(self._subject.graph.trace.tensors[place.name].shape)
        layouts = [same_units(n) for n in shape]
        layouts[place.dim] = free_units(shape[place.dim], self._extra)
        if place.volume is not None:
            grown = {place.volume: free_units(place.volume.size, self._extra)}
            layouts[place.dim] = layout_of(self._subject.graph.trace.spaces[place.name][place.dim], grown)
        return ParameterGrowth(shape, tuple(layouts))

    def _swap(self, transaction: Transaction, place: Place, tensor: Tensor) -> None:
        data, grad = tensor.data, tensor.grad
        growth = self._growths[place.name]
        new = _extended(data, place, growth)
        new_grad = None if grad is None else growth.place(grad)
        transaction.step(
            f"tensor {place.name}", partial(swap_data, tensor, new, new_grad), partial(swap_data, tensor, data, grad)
        )

    # -- check
    # ---------------------------------------------------------------------------------------------------------------

    def settle(self, transaction: Transaction, check: Check) -> tuple[AttributeChange, ...]:
        """See `Edit.settle`."""
        check.interface = self._interface
        if not check.runs:
            return self.configs
        guessed = self._follow(transaction, check)
        check.gaps.update(self._uses.gaps)
        if self._places.reach_outputs and not self._interface.grew:
            raise SurgeryError(f"{self.label!r} can't get new outputs: none of the model's outputs gets longer with it")
        if self._thorough is True:
            model, size = self._subject.model, self._places.size
            call = self._interface.call(self._subject.graph.probes[0].call)
            call, read = refuse_unknown_ids(model, call, self._tables, size=size, extra=self._extra)
            excused = set(self._tables) - read
            refuse_asleep(model, self._subject.graph.trace, self._all, call, size=size, excused=excused)
        return (*self.configs, *guessed)

    def _follow(self, transaction: Transaction, check: Check) -> tuple[AttributeChange, ...]:
        """Run the grown model; where it fails, try it without one of the user's numbers (equal by chance), or all."""
        problem = self._problem(transaction, check)
        if problem is None:
            return ()
        for chance in [*([one] for one in self._counted), self._counted]:
            with Attempt(transaction) as attempt:
                put_back(transaction, self._subject.model, chance)
                if chance and self._problem(transaction, check) is None:
                    attempt.keep()
                    self.attributes = tuple(c for c in self.attributes if c not in chance)
                    return ()
        model, names = self._subject.model, [place.name for place in self._all]
        guess = guessed_numbers(model, names, self._places.size, self._extra, self.attributes)
        if guess and self._owner is None:
            with Attempt(transaction) as attempt:
                for change in guess:
                    set_attribute(transaction, model, change)
                if self._problem(transaction, check) is None:
                    attempt.keep()
                    return tuple(guess)
        raise problem

    def _problem(self, transaction: Transaction, check: Check) -> SurgeryError | None:
        try:
            worst, where = check.compare(transaction), "the example"
            if self._uses.runs:
                other, use = self._uses.compare(self._subject.model, self._interface)
                worst, where = (other, use) if not other <= worst else (worst, where)
        except Exception as error:
            used = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
            failure = SurgeryError(
                f"the model's forward fails when {self.label} has {self._extra} more{used} ({type(error).__name__}: "
                f"{error}); everything was put back. Its code probably holds their number where it could not be found"
            )
            failure.__cause__ = error
            return failure
        if worst <= 1.0:
            return None
        return NotPreservedError(
            f"new units of {self.label}: expected the part of the outputs that was there to stay within rounding, got "
            f"a relative change of {max(check.largest_gap, *self._uses.gaps.values(), 0.0):.2e} in {where}; everything "
            "was put back. Something probably runs over all of them (a softmax, a mean) or holds their number"
        )

    def undo(self) -> Undo:
        """See `Edit.undo`."""
        return Shrink({name: growth.layouts for name, growth in self._growths.items()}, self._interface)

    def changes(self, attributes: tuple[AttributeChange, ...]) -> dict[str, Any]:
        """See `Edit.changes`."""
        configs = [[c.path, c.name, _logged(c.new)] for c in self.configs]
        own = [c for c in attributes if c not in self.configs]
        return {
            "tensors": {change.name: list(change.new_shape) for change in self.tensors},
            "attributes": [[c.path, c.name, c.new] for c in own],
            "configs": configs,
        }


def _extended(data: Tensor, place: Place, growth: ParameterGrowth) -> Tensor:
    """The tensor with new entries among the old ones, which keep their bits."""
    fill = data.new_zeros([layout.new_size for layout in growth.layouts])
    if place.fill == "mean" and data.is_floating_point():
        fill.copy_(data.to(torch.float64).mean(place.dim, keepdim=True).expand(fill.shape))
    return growth.place(data, fill=fill).contiguous(memory_format=memory_format(data))


def _embeddings(subject: Subject, place: Place) -> list[nn.Module]:
    """The embeddings whose weight a place is."""
    tensor = subject.graph.trace.tensors[place.name]
    kinds = (nn.Embedding, nn.EmbeddingBag)
    return [module for module in subject.model.modules() if isinstance(module, kinds) and module.weight is tensor]


def _left_alone(subject: Subject, places: Places) -> tuple[str, ...]:
    """A note for other heads, and embeddings, with as many rows as a head that grows without them."""
    if places.inputs or not places.reach_outputs:
        return ()
    grown = {place.name for place in places.places}
    names = {id(tensor): name for name, tensor in subject.graph.trace.tensors.items()}
    kinds = (nn.Embedding, nn.EmbeddingBag, nn.Linear)
    left = [
        path
        for path, module in subject.model.named_modules()
        if isinstance(module, kinds) and len(module.weight) == places.size and names[id(module.weight)] not in grown
        if not isinstance(module, nn.Linear) or is_head(subject.graph, names[id(module.weight)])
    ]
    both = (*left, *places.sites)
    return (
        (f"{left[0]!r} has as many rows and stays as it is; to grow a number that they share: {both}",) if left else ()
    )


def _logged(value: Any) -> Any:
    """A value as JSON keeps it: the keys of names of classes are numbers."""
    return [[key, text] for key, text in value.items()] if isinstance(value, dict) else value


def rebuild_units(model: nn.Module, changes: Mapping[str, Any]) -> None:
    """Give a freshly built model the longer tensors of the grown one, without weights.

    Args:
        model: The model before the growth; changed in place.
        changes: What `NewUnits.changes` has returned.

    Raises:
        SurgeryError: The log holds something else than sizes and names of classes.
    """
    resize_tensors(model, changes["tensors"])
    for path, name, value in changes["attributes"]:
        owner = model.get_submodule(path)
        setattr(owner, name, logged_size(owner, path, name, value))
    configs = []
    for path, name, value in changes["configs"]:
        labels = name.rpartition(".")[2] in _LABELS
        if not (labels and isinstance(value, (list, tuple))) and not is_size(value):
            raise SurgeryError(f"growth log: {path}.{name}: expected a whole number, got {value!r}")
        configs.append(AttributeChange(path, name, None, dict(value) if labels else value))
    with Transaction() as transaction:
        replace_configs(transaction, model, configs)
