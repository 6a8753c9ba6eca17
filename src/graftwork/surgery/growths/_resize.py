"""The edit that widening makes: tensors change their shape, and numbers follow."""

import itertools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.surgery._attributes import (
    AttributeChange,
    changed_counts,
    changed_lengths,
    check_claim,
    guessed_attributes,
    set_attribute,
    standard_attributes,
)
from graftwork.surgery._calls import first_line
from graftwork.surgery._changes import TensorChange
from graftwork.surgery._check import Check
from graftwork.surgery._configs import config_changes
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._idle import idle_notes
from graftwork.surgery._layout import Layout, UnitMap
from graftwork.surgery._methods import Method
from graftwork.surgery._space import Var, atoms
from graftwork.surgery._tensors import grow_tensor, place_old
from graftwork.surgery._transaction import Attempt, Transaction, swap_data
from graftwork.surgery.carry import ParameterGrowth, carry_state
from graftwork.surgery.growths._growth import Edit, Subject
from graftwork.surgery.growths._undo import NoWay, Shrink, Undo
from graftwork.surgery.layers import Uses, replace_configs

Sites: TypeAlias = dict[str, dict[Var, int]]
"""Site → volume → new units."""
_AMPLIFIED = 500.0
"""Times the rounding of a network that does not amplify it: what `Check` allows at most."""


class Resize(Edit):
    """Some volumes of a model grow.

    Args:
        subject: The traced model and what goes along.
        sites: The sites that grow, and by what.
        method: How new units are filled.
        scale: Standard deviation of new weights; None matches the old ones.
    """

    def __init__(self, subject: Subject, sites: Sites, method: Method, *, scale: float | None) -> None:
        graph = subject.graph
        self._subject, self._graph, self._method, self._scale = subject, graph, method, scale
        self._sites = sites
        self.label = ", ".join(sites) if len(sites) <= 4 else f"{len(sites)} sites from {next(iter(sites))} on"
        self.method, self.sites = method.name, tuple(sites)
        units: dict[Var, int] = {}
        for growth in sites.values():
            for var, count in growth.items():
                units[var] = max(count, units.get(var, 0))
        self.approximations = tuple(dict.fromkeys(reason.text for var in units for reason in var.reasons))
        seed = zlib.crc32(f"{self.label}:{[graph.width(site) for site in sites]}".encode())
        self._generator = subject.generator or torch.Generator().manual_seed(seed)
        rng = np.random.default_rng(seed)
        self._maps = {var: method.unit_map(var.size, count, rng=rng) for var, count in units.items()}
        self._layouts = {name: graph.layouts(name, self._maps) for name in graph.touched(self._maps)}
        self.tensors = tuple(tensor_change(graph, name, layouts, self._maps) for name, layouts in self._layouts.items())
        shapes = graph.shapes_after(self._layouts)
        self.attributes = tuple(standard_attributes(graph, self._maps, shapes))
        lengths = changed_lengths(graph, self._maps, list(self._layouts))
        counts = changed_counts(graph, self._maps, list(self._layouts))
        configs, sizes, notes = config_changes(graph.model, shapes, lengths, counts)
        known = {(change.path, change.name) for change in self.attributes}
        self._sizes = tuple(change for change in sizes if (change.path, change.name) not in known)
        self._heads, self._uses = bool(counts), Uses({})
        self.configs, self.notes = tuple(configs), (*graph.notes, *notes, *idle_notes(graph, self._layouts))

    def make(self, transaction: Transaction) -> list[str]:
        """See `Edit.make`."""
        self._swap_tensors(transaction)
        for attribute in self.attributes:
            set_attribute(transaction, self._graph.model, attribute)
        grown = []
        for change in self.tensors:
            tensor = self._graph.trace.tensors[change.name]
            if isinstance(tensor, nn.Parameter) and change.old_shape is not None:
                growth = ParameterGrowth(change.old_shape, tuple(self._layouts[change.name]))
                grown.append((change.name, tensor, growth))
        return carry_state(transaction, self._subject.optimizers, grown)

    def _swap_tensors(self, transaction: Transaction) -> None:
        # Large tensors first: what their making frees is then taken by the smaller ones, and the peak stays low.
        for change in sorted(self.tensors, key=lambda change: -math.prod(change.new_shape)):
            tensor, layouts = self._graph.trace.tensors[change.name], self._layouts[change.name]
            data, grad = tensor.data, tensor.grad
            fixed = not isinstance(tensor, nn.Parameter)
            new = grow_tensor(data, layouts, generator=self._generator, scale=self._scale, fixed=fixed)
            new_grad = place_old(grad, layouts) if grad is not None else None
            transaction.step(
                f"tensor {change.name}",
                partial(swap_data, tensor, new, new_grad),
                partial(swap_data, tensor, data, grad),
            )
            self._swap_mirrors(transaction, change.name, new)

    def _swap_mirrors(self, transaction: Transaction, name: str, new: Tensor) -> None:
        """Copies of the model (a moving average) keep their own old weights and get the same new ones."""
        for mirror in self._subject.mirrors:
            tensor = dict([*mirror.named_parameters(), *mirror.named_buffers()])[name]
            data, grad = tensor.data, tensor.grad
            if not self._method.keeps_old_weights:
                raise SurgeryError(
                    f"mirrors: expected a method that keeps old weights, got {self.method!r}; take r2r, for example"
                )
            grown = place_old(data, self._layouts[name], fill=new)
            transaction.step(
                f"mirror of {name}",
                partial(swap_data, tensor, grown, None),
                partial(swap_data, tensor, data, grad),
            )

    def settle(self, transaction: Transaction, check: Check) -> tuple[AttributeChange, ...]:
        """Change the config first: a forward may read it. Where it can't run with that, the config stays."""
        if self._heads and check.thorough is True:  # masks and caches meet numbers of heads that no plain run reads
            with transaction.suspended():
                self._uses = Uses.before(self._graph.model, self._graph.probes[0].call)
        if not self.configs:
            return self._follow(transaction, check)
        try:
            with Attempt(transaction) as attempt:
                replace_configs(transaction, self._graph.model, self.configs)
                for change in self._sizes:
                    set_attribute(transaction, self._graph.model, change)
                guessed = (*self._sizes, *self._follow(transaction, check))
                attempt.keep()
        except SurgeryError:
            guessed = self._follow(transaction, check)
            self.notes = (*self.notes, f"{self.configs[0].path} is left as it was: the forward fails with it changed")
            return guessed
        return (*self.configs, *guessed)

    def _follow(self, transaction: Transaction, check: Check) -> tuple[AttributeChange, ...]:
        """Run the grown model; where it fails, try the user's own numbers that hold an old length."""
        problem = self._problem(transaction, check)
        if problem is None:
            return ()
        tried: set[frozenset[str]] = set()
        for reach, entry in itertools.product((0, 1, 2, 99), (None, 0, 1, 2)):
            found = guessed_attributes(self._graph, self._maps, list(self._layouts), reach=reach, entry=entry)
            for guess in _subsets(found):
                if not guess or frozenset(map(str, guess)) in tried:
                    continue
                tried.add(frozenset(map(str, guess)))
                with Attempt(transaction) as attempt:
                    for attribute in guess:
                        set_attribute(transaction, self._graph.model, attribute)
                    if self._problem(transaction, check) is None:
                        attempt.keep()
                        return self._pruned(transaction, check, guess)
        raise problem

    def _pruned(
        self, transaction: Transaction, check: Check, guess: list[AttributeChange]
    ) -> tuple[AttributeChange, ...]:
        """Put back numbers that the forward does not need after all: they equal the old width by chance.

        One by one, or all of a name where there are many.
        """
        groups: dict[tuple[str, str], list[AttributeChange]] = {}
        for change in guess:
            groups.setdefault((change.path if len(guess) <= 8 else "", change.name), []).append(change)
        kept, gaps = list(guess), check.gaps
        for group in groups.values() if len(groups) > 1 else ():  # one alone is needed: without it the forward failed
            with Attempt(transaction) as attempt:
                for change in group:
                    back = AttributeChange(change.path, change.name, change.new, change.old)
                    set_attribute(transaction, self._graph.model, back)
                if self._problem(transaction, check) is None:
                    attempt.keep()
                    kept, gaps = [change for change in kept if change not in group], check.gaps
        check.gaps = gaps
        return tuple(kept)

    def _problem(self, transaction: Transaction, check: Check) -> SurgeryError | None:
        """Run the grown model and say what is wrong with it."""
        try:
            accepted = bool(self.approximations) or not self._method.preserves
            worst = check.compare(transaction, whole=accepted)
            other, _ = self._uses.compare(self._graph.model)
            check.gaps.update(self._uses.gaps)
            worst = worst if other <= _AMPLIFIED or accepted else math.inf
        except Exception as error:
            failure = SurgeryError(
                f"the model's forward fails when {self.label} is wider ({first_line(error)}); everything "
                "was put back. Its code probably holds the old width as a number that graftwork could not find: make "
                "it read the width from its weights or inputs"
            )
            failure.__cause__ = error
            return failure
        if worst > 1.0 and not (accepted and (math.isfinite(worst) or not self._method.preserves)):
            return NotPreservedError(
                f"widening {self.label}: expected the same outputs within rounding, got a relative change of "
                f"{check.largest_gap:.2e}; everything was put back. The forward probably uses a number that depends on "
                "the width (x.size(-1), head_dim ** -0.5) or an operation that mixes channels"
            )
        return None

    def unheard(self, site: str) -> dict[str, Tensor]:
        """Return masks of the weights that read a site's new units and start at zero (``netmorph``), by tensor."""
        own = self._sites[site]
        maps = {var: units if var in own else units.unweighted() for var, units in self._maps.items()}
        found = {}
        for name in self._graph.touched(own):
            layouts = self._graph.layouts(name, maps)
            mask = torch.zeros([layout.new_size for layout in layouts], dtype=torch.bool)
            for dim, layout in enumerate(layouts):
                zero = torch.as_tensor(layout.factor == 0.0)
                mask |= zero.reshape([-1 if at == dim else 1 for at in range(len(layouts))])
            if bool(mask.any()):
                found[name] = mask
        return found

    def added(self, site: str) -> dict[str, int]:
        """Return how many numbers every parameter gains where a site grows alone."""
        own = {var: self._maps[var] for var in self._sites[site]}
        found = {}
        for name in self._graph.touched(own):
            tensor = self._graph.trace.tensors[name]
            sizes = [layout.new_size for layout in self._graph.layouts(name, own)]
            if isinstance(tensor, nn.Parameter):
                found[name] = math.prod(sizes) - math.prod(layout.size for layout in self._graph.layouts(name, own))
        return found

    def undo(self) -> Undo:
        """See `Edit.undo`."""
        if not self._method.keeps_old_weights:
            return NoWay(f"{self.method!r} has changed old weights, those that read the new units")
        return Shrink(self._layouts)

    def changes(self, attributes: tuple[AttributeChange, ...]) -> dict[str, Any]:
        """See `Edit.changes`."""
        return {
            "tensors": {change.name: list(change.new_shape) for change in self.tensors},
            "attributes": [[change.path, change.name, change.new] for change in attributes],
        }


def resize_tensors(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give tensors of a freshly built model the shapes that a log names, without weights.

    Args:
        model: The model before the growth; changed in place.
        shapes: Name of a parameter or buffer → shape after the growth.

    Raises:
        SurgeryError: A tensor can't grow to its shape.
    """
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.dim() != len(shape) or any(a > b for a, b in zip(tensor.shape, shape, strict=True)):
            raise SurgeryError(
                f"{name!r}: expected a tensor that grows to {tuple(shape)}, got {tuple(tensor.shape)}; build the "
                "model as it was before the growth"
            )
        check_claim(math.prod(shape), tensor.numel(), f"{name!r} of shape {tuple(shape)}")
        swap_data(tensor, torch.zeros(shape, dtype=tensor.dtype, device=tensor.device), None)


def _subsets(found: list[AttributeChange]) -> Iterator[list[AttributeChange]]:
    """All guesses together, then without some of them (a head's width may equal the number of heads)."""
    few = len(found) <= 8
    keys = [change.path + change.name if few else change.name for change in found]
    for left_out in range(min(len(set(keys)), 3)):
        for omitted in itertools.combinations(dict.fromkeys(keys), left_out):
            yield [change for change, key in zip(found, keys, strict=True) if key not in omitted]


def tensor_change(graph: ChannelGraph, name: str, layouts: list[Layout], maps: dict[Var, UnitMap]) -> TensorChange:
    """Return the change of one tensor, with what it does to the volumes that grow."""
    grown = {id(var) for var in maps}
    roles = {
        "reads" if use.consumed else "makes"
        for use in graph.trace.uses[name]
        if any(id(var) in grown for var in atoms(use.expr))
    }
    role = roles.pop() if len(roles) == 1 else "both" if roles else "makes"
    old = tuple(graph.trace.tensors[name].shape)
    return TensorChange(name, old, tuple(layout.new_size for layout in layouts), role)
