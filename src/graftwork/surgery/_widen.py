"""Widen a volume of any module: plan, then apply all or nothing."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn, optim

from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.surgery._attributes import AttributeChange, guessed_attributes, standard_attributes
from graftwork.surgery._calls import Call, ExampleInput, call_of
from graftwork.surgery._check import Probes
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._layout import Layout, UnitMap, unit_map
from graftwork.surgery._methods import Method, grow_tensor, method_named, place_old
from graftwork.surgery._optimizers import ParameterGrowth, carry_state, check_optimizers
from graftwork.surgery._receipt import SurgeryReceipt, TensorChange, describe
from graftwork.surgery._space import Var, atoms
from graftwork.surgery._transaction import Transaction, swap_data

__all__ = ["Optimizers", "WidenPlan", "plan_widen", "widen"]

Optimizers = optim.Optimizer | Sequence[optim.Optimizer] | None


@dataclass(eq=False)
class WidenPlan:
    """A widening that has been checked and not yet been made; print it, then `apply` it.

    Attributes:
        model: The model it is for.
        site: Site or sites, for messages.
        method: How new units are filled.
        tensors: Every parameter and buffer that will change, old and new shape.
        attributes: Numbers of PyTorch's own modules that will change. Numbers of the user's modules are changed only
            where the grown model needs it; the receipt lists them.
        notes: What a reader should know.
    """

    model: nn.Module
    site: str
    method: Method
    tensors: tuple[TensorChange, ...]
    attributes: tuple[AttributeChange, ...]
    notes: tuple[str, ...]
    _graph: ChannelGraph = field(repr=False)
    _growth: dict[Var, UnitMap] = field(repr=False)
    _layouts: dict[str, list[Layout]] = field(repr=False)
    _call: Call = field(repr=False)
    _optimizers: tuple[optim.Optimizer, ...] = field(repr=False)
    _options: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return "\n".join([f"widen {self.site} ({self.method.name})", describe(self.tensors, self.attributes)])

    def apply(self) -> SurgeryReceipt:
        """Make the growth, or leave everything as it was.

        Returns:
            What changed.

        Raises:
            SurgeryError: The model has changed since the plan was made, or its forward fails when grown.
            NotPreservedError: The grown model computes something else (a constant that depends on the width, say).
        """
        for change in self.tensors:
            if tuple(self._graph.trace.tensors[change.name].shape) != change.old_shape:
                raise SurgeryError(f"{change.name!r} has changed since the plan was made: plan again")
        before = _count(self.model)
        check = self._options["check"] and self.method.preserves
        probes = Probes.before(self.model, self._call) if check else Probes([])
        with Transaction() as transaction:
            self._swap_tensors(transaction)
            for attribute in self.attributes:
                _set_attribute(transaction, self.model, attribute)
            grown = self._parameter_growths()
            carried = carry_state(transaction, self._optimizers, grown)
            guessed = self._settle(transaction, probes, check=self._options["check"])
            attributes = (*self.attributes, *guessed)
            receipt = self._receipt(probes, before, attributes, tuple(carried))
            _append_log(transaction, self.model, receipt.log)
        return receipt

    # -- steps ---------------------------------------------------------------------------------------------------

    def _swap_tensors(self, transaction: Transaction) -> None:
        generator = self._options["generator"]
        for change in self.tensors:
            tensor = self._graph.trace.tensors[change.name]
            layouts = self._layouts[change.name]
            data, grad = tensor.data, tensor.grad
            new = grow_tensor(data, layouts, generator=generator, scale=self._options["scale"])
            new_grad = place_old(grad, layouts) if grad is not None else None
            transaction.step(
                f"tensor {change.name}",
                lambda t=tensor, d=new, g=new_grad: swap_data(t, d, g),
                lambda t=tensor, d=data, g=grad: swap_data(t, d, g),
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
                lambda t=tensor, d=grown: swap_data(t, d, None),
                lambda t=tensor, d=data, g=grad: swap_data(t, d, g),
            )

    def _parameter_growths(self) -> list[tuple[str, nn.Parameter, ParameterGrowth]]:
        found = []
        for change in self.tensors:
            tensor = self._graph.trace.tensors[change.name]
            if isinstance(tensor, nn.Parameter) and change.old_shape is not None:
                growth = ParameterGrowth(change.old_shape, tuple(self._layouts[change.name]))
                found.append((change.name, tensor, growth))
        return found

    def _settle(self, transaction: Transaction, probes: Probes, *, check: bool) -> tuple[AttributeChange, ...]:
        """Run the grown model; where it fails, try the user's own numbers that hold an old length."""
        if not check:
            return ()
        problem = self._try(probes)
        if problem is None:
            return ()
        names = [change.name for change in self.tensors]
        tried: list[tuple[AttributeChange, ...]] = []
        for reach in (0, 1, 2, 99):
            guess = tuple(guessed_attributes(self._graph, self._growth, names, reach=reach))
            if not guess or guess in tried:
                continue
            tried.append(guess)
            with _Attempt(transaction) as attempt:
                for attribute in guess:
                    _set_attribute(transaction, self.model, attribute)
                if self._try(probes) is None:
                    attempt.keep()
                    return guess
        raise problem

    def _try(self, probes: Probes) -> SurgeryError | None:
        if not probes.runs:  # the control: it only has to run
            try:
                self._call.run(self.model)
            except Exception as error:  # noqa: BLE001 - any failure of the user's forward
                return _forward_failed(self.site, error)
            return None
        try:
            worst = probes.compare(self.model)
        except Exception as error:  # noqa: BLE001 - any failure of the user's forward
            return _forward_failed(self.site, error)
        if worst > 1.0:
            return NotPreservedError(
                f"widening {self.site} changed the outputs by {probes.largest_gap:.2e} relative (allowed: rounding); "
                "everything was put back. The forward probably uses a number that depends on the width "
                "(x.size(-1), head_dim ** -0.5) or an operation that mixes channels"
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
        counts = (before, _count(self.model))
        return SurgeryReceipt(
            "widen", self.site, self.method.name, self.tensors, attributes, carried, probes.gaps, counts, self.notes, log
        )


class _Attempt:
    """A part of a transaction that is undone unless it is kept."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._kept = False
        self._length = 0

    def __enter__(self) -> "_Attempt":
        self._length = self._transaction.length
        return self

    def keep(self) -> None:
        self._kept = True

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            self._transaction.undo(to=self._length)


def _forward_failed(site: str, error: Exception) -> SurgeryError:
    failure = SurgeryError(
        f"the model's forward fails when {site} is wider ({type(error).__name__}: {error}); everything was put back. "
        "Its code probably holds the old width as a number that graftwork could not find: make it read the width from "
        "its weights or inputs"
    )
    failure.__cause__ = error
    return failure


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _set_attribute(transaction: Transaction, model: nn.Module, change: AttributeChange) -> None:
    owner = model.get_submodule(change.path)
    transaction.step(
        f"attribute {change.path}.{change.name}",
        lambda: setattr(owner, change.name, change.new),
        lambda: setattr(owner, change.name, change.old),
    )


def _append_log(transaction: Transaction, model: nn.Module, entry: dict[str, Any]) -> None:
    old = getattr(model, "_graftwork_log", None)
    transaction.step(
        "log",
        lambda: setattr(model, "_graftwork_log", [*(old or []), entry]),
        lambda: setattr(model, "_graftwork_log", old) if old is not None else vars(model).pop("_graftwork_log", None),
    )


def optimizer_tuple(optimizer: Optimizers) -> tuple[optim.Optimizer, ...]:
    """Return optimizers as a tuple."""
    if optimizer is None:
        return ()
    if isinstance(optimizer, (list, tuple)):
        return tuple(optimizer)
    return (optimizer,)  # type: ignore[return-value]


def plan_widen(
    model: nn.Module,
    site: str,
    *,
    example_input: ExampleInput,
    extra: int | None = None,
    width: int | None = None,
    factor: float | None = None,
    method: str = "r2r",
    optimizer: Optimizers = None,
    **options: Any,
) -> WidenPlan:
    """Plan to widen the channels that a module makes; nothing changes until ``apply()``.

    Args:
        model: Any eager ``nn.Module``.
        site: Path of the module (or parameter) whose output channels grow: ``"layer3.0.conv1"``.
        example_input: One batch as the model's forward takes it: a tensor, a tuple of arguments or a mapping of keyword
            arguments. Used to follow the channels and for the check.
        extra: Number of new channels in total (an even number for ``r2r``; whole groups or heads where the channels
            are grouped). Exactly one of ``extra``, ``width`` and ``factor`` is given.
        width: Number of channels afterwards.
        factor: Ratio of the new width to the old one (> 1), rounded up to what the site allows.
        method: ``"r2r"`` (new twins cancel), ``"net2net"`` (copies share their consumers' weights), ``"netmorph"``
            (new channels are not heard yet) or ``"random-padding"`` (the control: changes the function).
        optimizer: Optimizer or optimizers whose state is carried. None leaves optimizers alone.
        **options: ``generator`` (a CPU ``torch.Generator``; None derives one from the site and width), ``check``
            (True: compare outputs before and after and roll back on a change), ``scale`` (standard deviation of new
            weights; None matches the old ones), ``mirrors`` (modules of the same structure, such as a moving average,
            that grow along).

    Returns:
        The plan.

    Raises:
        UnsupportedOperationError: An operation on the way is not understood; the message names it and its place.
        SurgeryError: The channels can't grow without changing the function, or not by that number.
    """
    call = call_of(example_input)
    graph = ChannelGraph.of(model, call)
    chosen = method_named(method)
    growth = choose_growth(graph, site, chosen, extra=extra, width=width, factor=factor)
    return build_plan(graph, {site: growth}, chosen, call=call, optimizer=optimizer, **options)


def widen(
    model: nn.Module,
    site: str,
    *,
    example_input: ExampleInput,
    extra: int | None = None,
    width: int | None = None,
    factor: float | None = None,
    method: str = "r2r",
    optimizer: Optimizers = None,
    **options: Any,
) -> SurgeryReceipt:
    """Widen the channels that a module makes, in place, all or nothing: `plan_widen` and ``apply()``.

    Takes the arguments of `plan_widen` and raises its errors.

    Raises:
        NotPreservedError: The grown model computes something else; everything was put back.
    """
    plan = plan_widen(
        model,
        site,
        example_input=example_input,
        extra=extra,
        width=width,
        factor=factor,
        method=method,
        optimizer=optimizer,
        **options,
    )
    return plan.apply()


def choose_growth(
    graph: ChannelGraph,
    site: str,
    method: Method,
    *,
    extra: int | None,
    width: int | None,
    factor: float | None,
) -> dict[Var, int]:
    """Return which volumes grow by how many units so that a site becomes as wide as asked."""
    if sum(value is not None for value in (extra, width, factor)) != 1:
        raise SurgeryError(f"give exactly one of extra, width and factor, got {extra=}, {width=}, {factor=}")
    present = graph.width(site)
    if factor is not None:
        if not factor > 1:
            raise SurgeryError(f"factor must be above 1, got {factor!r}")
        wanted = max(round(present * factor) - present, 1)
    else:
        wanted = extra if extra is not None else (width or 0) - present
    if wanted <= 0:
        raise SurgeryError(f"{site!r} has width {present}: it can only grow, got {extra=}, {width=}")
    candidates = graph.candidates(site)
    if not candidates:
        raise graph.refusal(site)
    step = 2 if method.pairing == "twins" else 1
    problem: SurgeryError | None = None
    for var, rows in candidates:
        number = -(-wanted // (rows * step)) * step if factor is not None else wanted // rows
        if factor is None and wanted % (rows * step):
            continue
        try:
            return graph.close({var: number}, step=step)
        except SurgeryError as error:
            problem = problem or error
    if problem is not None:
        raise problem
    steps = sorted({rows * step for _, rows in candidates})
    raise SurgeryError(f"{site!r} grows in steps of {' or '.join(map(str, steps))} channels, got {wanted} new ones")


def build_plan(
    graph: ChannelGraph,
    growths: dict[str, dict[Var, int]],
    method: Method,
    *,
    call: Call,
    optimizer: Optimizers = None,
    generator: torch.Generator | None = None,
    check: bool = True,
    scale: float | None = None,
    mirrors: Sequence[nn.Module] = (),
) -> WidenPlan:
    """Turn chosen growths (site → volume → new units) into a plan."""
    optimizers = optimizer_tuple(optimizer)
    check_optimizers(optimizers, graph.model)
    label = ", ".join(growths)
    units: dict[Var, int] = {}
    for growth in growths.values():
        for var, count in growth.items():
            units[var] = max(count, units.get(var, 0))
    seed = zlib.crc32(f"{label}:{[graph.width(site) for site in growths]}".encode())
    generator = generator if generator is not None else torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    maps = {var: unit_map(var.size, count, pairing=method.pairing, rng=rng) for var, count in units.items()}
    layouts = {name: graph.layouts(name, maps) for name in graph.touched(maps)}
    changes = tuple(_change(graph, name, layouts[name], maps) for name in layouts)
    shapes = _new_shapes(graph, layouts)
    attributes = tuple(standard_attributes(graph, maps, shapes))
    options = {"generator": generator, "check": check, "scale": scale, "mirrors": tuple(mirrors)}
    return WidenPlan(
        graph.model, label, method, changes, attributes, tuple(graph.notes),
        graph, maps, layouts, call, optimizers, options,
    )  # fmt: skip


def _new_shapes(graph: ChannelGraph, layouts: dict[str, list[Layout]]) -> dict[str, tuple[int, ...]]:
    """Shapes after the growth under every name that a tensor has."""
    names = {id(tensor): name for name, tensor in graph.trace.tensors.items()}
    result = {}
    for alias, tensor in [
        *graph.model.named_parameters(remove_duplicate=False),
        *graph.model.named_buffers(remove_duplicate=False),
    ]:
        own = layouts.get(names[id(tensor)])
        result[alias] = tuple(layout.new_size for layout in own) if own else tuple(tensor.shape)
    return result


def _change(graph: ChannelGraph, name: str, layouts: list[Layout], maps: dict[Var, UnitMap]) -> TensorChange:
    grown = {id(var) for var in maps}
    roles = {
        "reads" if use.consumed else "makes"
        for use in graph.trace.uses[name]
        if any(id(var) in grown for var in atoms(use.expr))
    }
    role = roles.pop() if len(roles) == 1 else "both" if roles else "makes"
    old = tuple(graph.trace.tensors[name].shape)
    return TensorChange(name, old, tuple(layout.new_size for layout in layouts), role)
