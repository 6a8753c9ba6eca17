"""A widening as a value: what will change, and how to make it."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn, optim

from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.surgery._attributes import AttributeChange, guessed_attributes
from graftwork.surgery._calls import Call
from graftwork.surgery._check import Probes
from graftwork.surgery._configs import replace_config
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._layout import Layout, UnitMap
from graftwork.surgery._methods import Method, grow_tensor, place_old
from graftwork.surgery._receipt import SurgeryReceipt, TensorChange, describe
from graftwork.surgery._space import Var
from graftwork.surgery._steps import Attempt, append_log, count_parameters, forward_failed, set_attribute
from graftwork.surgery._transaction import Transaction, swap_data
from graftwork.surgery.carry import ParameterGrowth, carry_state

__all__ = ["WidenPlan"]


@dataclass(eq=False)
class WidenPlan:
    """A widening that has been checked and not yet been made; print it, then `apply` it.

    Attributes:
        model: The model it is for.
        site: Site or sites, for messages.
        method: How new units are filled.
        tensors: Every parameter and buffer that will change, old and new shape.
        attributes: Numbers of PyTorch's own modules that will change. Numbers of the user's modules are
            changed only where the grown model needs it; the receipt lists them.
        notes: What a reader should know.
        sites: The sites that were chosen.
        approximations: Norms whose statistics the growth shifts; empty where it is exact.
        configs: Numbers of a Hugging Face ``config`` that will change, so that it builds the grown model.
    """

    model: nn.Module
    site: str
    method: Method
    tensors: tuple[TensorChange, ...]
    attributes: tuple[AttributeChange, ...]
    notes: tuple[str, ...]
    sites: tuple[str, ...]
    approximations: tuple[str, ...]
    configs: tuple[AttributeChange, ...]
    _graph: ChannelGraph = field(repr=False)
    _growth: dict[Var, UnitMap] = field(repr=False)
    _layouts: dict[str, list[Layout]] = field(repr=False)
    _call: Call = field(repr=False)
    _optimizers: tuple[optim.Optimizer, ...] = field(repr=False)
    _options: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        head = f"widen {self.site} ({self.method.name})"
        inexact = [f"  approximate: {text}" for text in self.approximations]
        return "\n".join([head, describe(self.tensors, (*self.attributes, *self.configs)), *inexact])

    def apply(self) -> SurgeryReceipt:
        """Make the growth, or leave everything as it was.

        Returns:
            What changed.

        Raises:
            SurgeryError: The model has changed since the plan was made, or its forward fails when grown.
            NotPreservedError: The grown model computes something else (a constant that depends on the width,
                say), and the plan names no approximation.
        """
        for change in self.tensors:
            if tuple(self._graph.trace.tensors[change.name].shape) != change.old_shape:
                raise SurgeryError(f"{change.name!r} has changed since the plan was made: plan again")
        before = count_parameters(self.model)
        probes = self._probes() if self._options["check"] else Probes([])
        with Transaction() as transaction:
            self._swap_tensors(transaction)
            for attribute in self.attributes:
                set_attribute(transaction, self.model, attribute)
            grown = self._parameter_growths()
            carried = carry_state(transaction, self._optimizers, grown)
            guessed = self._settle_with_config(transaction, probes)
            attributes = (*self.attributes, *guessed)
            receipt = self._receipt(probes, before, attributes, tuple(carried))
            append_log(transaction, self.model, receipt.log)
        return receipt

    def trial(self) -> SurgeryError | None:
        """Make the growth, run the check, and undo it; returns what went wrong, None where nothing did."""
        probes = self._probes()
        transaction = Transaction()
        try:
            self._swap_tensors(transaction)
            for attribute in self.attributes:
                set_attribute(transaction, self.model, attribute)
            self._settle(transaction, probes, check=True)
        except SurgeryError as error:
            return error
        finally:
            transaction.undo()
        return None

    # -- steps
    # ---------------------------------------------------------------------------------------------------

    def _probes(self) -> Probes:
        return Probes.before(self.model, self._call, branches=bool(self._graph.trace.reads))

    def _swap_tensors(self, transaction: Transaction) -> None:
        generator = self._options["generator"]
        # Large tensors first: what their making frees is then taken by the smaller ones, and the peak stays low.
        for change in sorted(self.tensors, key=lambda change: -math.prod(change.new_shape)):
            tensor = self._graph.trace.tensors[change.name]
            layouts = self._layouts[change.name]
            data, grad = tensor.data, tensor.grad
            fixed = not isinstance(tensor, nn.Parameter)
            new = grow_tensor(data, layouts, generator=generator, scale=self._options["scale"], fixed=fixed)
            new_grad = place_old(grad, layouts) if grad is not None else None
            transaction.step(
                f"tensor {change.name}",
                partial(swap_data, tensor, new, new_grad),
                partial(swap_data, tensor, data, grad),
            )
            self._swap_mirrors(transaction, change.name, new)

    def _swap_mirrors(self, transaction: Transaction, name: str, new: torch.Tensor) -> None:
        """Copies of the model (a moving average) keep their own old weights and get the same new ones."""
        for mirror in self._options["mirrors"]:
            tensor = dict([*mirror.named_parameters(), *mirror.named_buffers()])[name]
            data, grad = tensor.data, tensor.grad
            if self.method.name == "net2net":
                raise SurgeryError("mirrors need a method that keeps old weights: r2r, netmorph or random-padding")
            grown = place_old(data, self._layouts[name], fill=new)
            transaction.step(
                f"mirror of {name}",
                partial(swap_data, tensor, grown, None),
                partial(swap_data, tensor, data, grad),
            )

    def _parameter_growths(self) -> list[tuple[str, nn.Parameter, ParameterGrowth]]:
        found = []
        for change in self.tensors:
            tensor = self._graph.trace.tensors[change.name]
            if isinstance(tensor, nn.Parameter) and change.old_shape is not None:
                growth = ParameterGrowth(change.old_shape, tuple(self._layouts[change.name]))
                found.append((change.name, tensor, growth))
        return found

    def _settle_with_config(self, transaction: Transaction, probes: Probes) -> tuple[AttributeChange, ...]:
        """Change the config first: a forward may read it. Where it can't run with that, the config stays."""
        check = self._options["check"]
        if not self.configs:
            return self._settle(transaction, probes, check=check)
        try:
            with Attempt(transaction) as attempt:
                for path in dict.fromkeys(change.path for change in self.configs):
                    values = {change.name: change.new for change in self.configs if change.path == path}
                    replace_config(self.model, path, values, transaction=transaction)
                guessed = self._settle(transaction, probes, check=check)
                attempt.keep()
        except SurgeryError:
            guessed = self._settle(transaction, probes, check=check)
            self.notes = (*self.notes, f"{self.configs[0].path} is left as it was: the forward fails with it changed")
            return guessed
        return (*self.configs, *guessed)

    def _settle(self, transaction: Transaction, probes: Probes, *, check: bool) -> tuple[AttributeChange, ...]:
        """Run the grown model; where it fails, try the user's own numbers that hold an old length."""
        if not check:
            return ()
        problem = self._try(probes)
        if problem is None:
            return ()
        names = [change.name for change in self.tensors]
        tried: set[frozenset[AttributeChange]] = set()
        for reach in (0, 1, 2, 99):
            found = guessed_attributes(self._graph, self._growth, names, reach=reach)
            for guess in _subsets(found):
                if not guess or frozenset(guess) in tried:
                    continue
                tried.add(frozenset(guess))
                with Attempt(transaction) as attempt:
                    for attribute in guess:
                        set_attribute(transaction, self.model, attribute)
                    if self._try(probes) is None:
                        attempt.keep()
                        return self._pruned(transaction, probes, guess)
        raise problem

    def _pruned(
        self, transaction: Transaction, probes: Probes, guess: list[AttributeChange]
    ) -> tuple[AttributeChange, ...]:
        """Put back numbers that the forward does not need after all: they equal the old width by chance.

        One by one, or all of a name where there are many.
        """
        groups: dict[tuple[str, str], list[AttributeChange]] = {}
        for change in guess:
            groups.setdefault((change.path if len(guess) <= 8 else "", change.name), []).append(change)
        kept = list(guess)
        for group in groups.values():
            with Attempt(transaction) as attempt:
                for change in group:
                    back = AttributeChange(change.path, change.name, change.new, change.old)
                    set_attribute(transaction, self.model, back)
                if self._try(probes) is None:
                    attempt.keep()
                    kept = [change for change in kept if change not in group]
        self._try(probes)
        return tuple(kept)

    def _try(self, probes: Probes) -> SurgeryError | None:
        try:
            worst = probes.compare(self.model)
        except Exception as error:
            return forward_failed(self.site, error)
        accepted = self.approximations and math.isfinite(worst)
        if worst > 1.0 and self.method.preserves and not accepted:
            return NotPreservedError(
                f"widening {self.site} changed the outputs by {probes.largest_gap:.2e} relative "
                f"(allowed: rounding); "
                "everything was put back. The forward probably uses a number "
                f"that depends on the width "
                "(x.size(-1), head_dim ** -0.5) or an operation that "
                f"mixes channels"
            )
        return None

    def _receipt(
        self,
        probes: Probes,
        before: int,
        attributes: tuple[AttributeChange, ...],
        carried: tuple[str, ...],
    ) -> SurgeryReceipt:
        log = {
            "kind": "widen",
            "site": self.site,
            "method": self.method.name,
            "tensors": {change.name: list(change.new_shape) for change in self.tensors},
            "attributes": [[a.path, a.name, a.new] for a in attributes],
        }
        counts = (before, count_parameters(self.model))
        return SurgeryReceipt(
            "widen",
            self.site,
            self.method.name,
            self.tensors,
            attributes,
            carried,
            probes.gaps,
            counts,
            self.notes,
            self.approximations,
            log,
        )


def _subsets(found: list[AttributeChange]) -> Iterator[list[AttributeChange]]:
    """All guesses together, then without some of them (a head's width may equal the number of heads)."""
    few = len(found) <= 8
    keys = [change.path + change.name if few else change.name for change in found]
    for left_out in range(min(len(set(keys)), 3)):
        for omitted in itertools.combinations(dict.fromkeys(keys), left_out):
            yield [change for change, key in zip(found, keys, strict=True) if key not in omitted]
