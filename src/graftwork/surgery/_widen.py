"""Widen a volume of any module: plan, then apply all or nothing."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, Unpack

import numpy as np
import torch
from torch import nn, optim

from graftwork.errors import SurgeryError
from graftwork.surgery._attributes import changed_lengths, standard_attributes
from graftwork.surgery._calls import Call, ExampleInput, call_of
from graftwork.surgery._configs import config_changes
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._layout import Layout, UnitMap, unit_map
from graftwork.surgery._methods import Method, method_named
from graftwork.surgery._options import Optimizers, WidenOptions
from graftwork.surgery._plan import WidenPlan
from graftwork.surgery._receipt import SurgeryReceipt, TensorChange
from graftwork.surgery._space import Var, atoms
from graftwork.surgery.carry import check_optimizers, unwrapped

__all__ = ["WidenPlan", "build_plan", "choose_growth", "optimizer_tuple", "plan_widen", "prepared", "widen"]


def optimizer_tuple(optimizer: Optimizers) -> tuple[optim.Optimizer, ...]:
    """Return optimizers as a tuple, without the wrappers of training frameworks."""
    if optimizer is None:
        return ()
    given = optimizer if isinstance(optimizer, (list, tuple)) else (optimizer,)
    return tuple(unwrapped(one) for one in given)


def plan_widen(
    model: nn.Module,
    site: str,
    *,
    example_input: ExampleInput,
    extra: int | None = None,
    width: int | None = None,
    factor: float | None = None,
    skip: int = 0,
    **options: Unpack[WidenOptions],
) -> WidenPlan:
    """Plan to widen the channels that a module makes; nothing changes until ``apply()``.

    Args:
        model: Any eager ``nn.Module``.
        site: Path of the module (or parameter) whose output channels grow: ``"layer3.0.conv1"``.
        example_input: One batch as the model's forward takes it: a tensor, a tuple of arguments or a mapping
            of keyword arguments. Used to follow the channels and for the check.
        extra: Number of new channels in total (an even number for ``r2r``; whole groups or heads where the
            channels are grouped). Exactly one of ``extra``, ``width`` and ``factor`` is given.
        width: Number of channels afterwards.
        factor: Ratio of the new width to the old one (> 1), rounded up to what the site allows.
        skip: Where the width is made of several volumes, such as groups and channels in a group, or heads and their
            width: how many ways to grow it to pass over; 0 takes the outermost volume.
        **options: The keys of `WidenOptions`: ``method`` (``"r2r"``, ``"net2net"``, ``"netmorph"`` or
            ``"random-padding"``), ``optimizer`` (whose state is carried), ``approximate`` (False), ``check`` (True),
            ``generator``, ``scale`` (of new weights), ``mirrors`` (that grow along).

    Returns:
        The plan.

    Raises:
        UnsupportedOperationError: An operation on the way is not understood; the message names it and its
            place.
        SurgeryError: The channels can't grow without changing the function, or not by that number.
    """
    graph, method, finish = prepared(model, example_input, **options)
    growth = choose_growth(graph, site, method, extra=extra, width=width, factor=factor, skip=skip)
    return finish({site: growth})


def widen(
    model: nn.Module,
    site: str,
    *,
    example_input: ExampleInput,
    extra: int | None = None,
    width: int | None = None,
    factor: float | None = None,
    **options: Unpack[WidenOptions],
) -> SurgeryReceipt:
    """Widen the channels that a module makes, in place, all or nothing: `plan_widen` and ``apply()``.

    Raises the errors of `plan_widen`, too.

    Args:
        model: As in `plan_widen`; changed in place.
        site: As in `plan_widen`.
        example_input: As in `plan_widen`.
        extra: Number of new channels in total. Exactly one of ``extra``, ``width`` and ``factor`` is given.
        width: Number of channels afterwards.
        factor: Ratio of the new width to the old one (> 1), rounded up to what the site allows.
        **options: The keys of `WidenOptions`: ``method`` (``"r2r"``, ``"net2net"``, ``"netmorph"`` or
            ``"random-padding"``), ``optimizer`` (whose state is carried), ``approximate`` (False), ``check`` (True),
            ``generator``, ``scale`` (of new weights), ``mirrors`` (that grow along).

    Raises:
        NotPreservedError: The grown model computes something else; everything was put back. Not with ``approximate``
            where a norm runs over the channels: there the receipt states how much the outputs changed.
    """
    size: dict[str, Any] = {"extra": extra, "width": width, "factor": factor}
    first: SurgeryError | None = None
    for skip in range(8):
        # A width may be made of several volumes (groups, channels in a group): where the user's code can't
        # follow the growth of one, another may do.
        try:
            plan = plan_widen(model, site, example_input=example_input, skip=skip, **size, **options)
        except SurgeryError as error:
            raise first or error from None
        try:
            return plan.apply()
        except SurgeryError as error:
            first = first or error
    raise first or SurgeryError(f"{site!r} can't be widened")


Growths: TypeAlias = dict[str, dict[Var, int]]  # site → volume → new units


def prepared(
    model: nn.Module,
    example_input: ExampleInput,
    *,
    method: str = "r2r",
    approximate: bool = False,
    **options: Any,
) -> tuple[ChannelGraph, Method, Callable[[Growths], WidenPlan]]:
    """Return a model's graph, the method, and what makes chosen growths a plan (options as in `WidenOptions`)."""
    call = call_of(example_input)
    graph = ChannelGraph.of(model, call, approximate=approximate)
    chosen = method_named(method)
    return graph, chosen, lambda growths: build_plan(graph, growths, chosen, call=call, **options)


def choose_growth(
    graph: ChannelGraph,
    site: str,
    method: Method,
    *,
    extra: int | None,
    width: int | None,
    factor: float | None,
    skip: int = 0,
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
    steps = set()
    for var in candidates:
        try:
            least = graph.added(site, graph.close({var: step}, step=step))
            steps.add(least)
            times = -(-wanted // least) if factor is not None else wanted // least
            if times == 0 or (factor is None and wanted % least):
                continue
            growth = graph.close({var: step * times}, step=step)
        except SurgeryError as error:
            problem = problem or error
            continue
        if skip == 0:
            graph.refuse_left_behind(growth)
            return growth
        skip -= 1
    if steps:
        possible = " or ".join(map(str, sorted(steps)))
        raise SurgeryError(f"{site!r} grows in steps of {possible} channels, got {wanted} new ones")
    raise problem or graph.refusal(site)


def build_plan(
    graph: ChannelGraph,
    growths: Growths,
    method: Method,
    *,
    call: Call,
    optimizer: Optimizers = None,
    generator: torch.Generator | None = None,
    check: bool = True,
    scale: float | None = None,
    mirrors: Sequence[nn.Module] = (),
) -> WidenPlan:
    """Turn chosen growths into a plan."""
    optimizers = optimizer_tuple(optimizer)
    check_optimizers(optimizers, graph.model)
    label = ", ".join(growths) if len(growths) <= 4 else f"{len(growths)} sites from {next(iter(growths))} on"
    units: dict[Var, int] = {}
    for growth in growths.values():
        for var, count in growth.items():
            units[var] = max(count, units.get(var, 0))
    approximations = tuple(dict.fromkeys(reason.text for var in units for reason in var.reasons))
    if approximations and not check:
        raise SurgeryError(
            "approximate=True needs check=True: the gap that a growth makes is stated as it was measured"
        )
    seed = zlib.crc32(f"{label}:{[graph.width(site) for site in growths]}".encode())
    generator = generator if generator is not None else torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    maps = {var: unit_map(var.size, count, pairing=method.pairing, rng=rng) for var, count in units.items()}
    layouts = {name: graph.layouts(name, maps) for name in graph.touched(maps)}
    changes = tuple(_change(graph, name, layouts[name], maps) for name in layouts)
    shapes = _new_shapes(graph, layouts)
    attributes = tuple(standard_attributes(graph, maps, shapes))
    configs, notes = config_changes(graph.model, shapes, changed_lengths(graph, maps, list(layouts)))
    options = {"generator": generator, "check": check, "scale": scale, "mirrors": tuple(mirrors)}
    return WidenPlan(
        graph.model, label, method, changes, attributes, (*graph.notes, *notes), tuple(growths),
        approximations, tuple(configs), graph, maps, layouts, call, optimizers, options,
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
