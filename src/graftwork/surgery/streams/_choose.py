"""The way in which a stream can grow: which volumes, which numbers, and what every parameter becomes."""

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._attributes import AttributeChange, guessed_attributes, standard_attributes
from graftwork.surgery._calls import Call
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._layout import Layout, UnitMap, free_units
from graftwork.surgery._methods import method_named
from graftwork.surgery._space import Var, atoms
from graftwork.surgery._tensors import place_old
from graftwork.surgery._transaction import Transaction, swap_data
from graftwork.surgery.layers import owner_of, replace_configs, set_numbers
from graftwork.surgery.streams._dealt import deals_otherwise, dealt
from graftwork.surgery.streams._find import growable, normed
from graftwork.surgery.streams._heads import heads
from graftwork.surgery.streams._read import read, stuck
from graftwork.surgery.streams._reading import PowerOf, Reading, Refusal
from graftwork.surgery.streams._reference import Target, Wish, config_targets
from graftwork.surgery.streams._tape import Tape, UnevenError, powers
from graftwork.surgery.streams._values import Kind

_EPSILONS = ("eps", "epsilon", "variance_epsilon")
_LAYER_NORMS = ("native_layer_norm", "layer_norm")


@dataclass(frozen=True)
class Way:
    """One way that keeps the function.

    Attributes:
        target: Volumes, configs and numbers.
        reading: What every parameter becomes.
        maps: Volume → its layout.
        layouts: Name of every tensor that changes its shape → the layout of each dimension.
        unit: The ratio whose powers scale: the root of new over old width.
    """

    target: Target
    reading: Reading
    maps: dict[Var, UnitMap]
    layouts: dict[str, list[Layout]]
    unit: float

    def factor(self, name: str) -> float:
        """Return what the old entries of a tensor are multiplied by."""
        power = self.reading.powers.value(name)
        return float(self.unit**power) if power else 1.0


def choose(graph: ChannelGraph, tape: Tape, call: Call, wish: Wish) -> Way:
    """Return the way to make the streams of a model wider.

    Args:
        graph: The model, as it was traced.
        tape: One run of it.
        call: The example.
        wish: What shall grow.

    Raises:
        SurgeryError: There is none; the message names the operation that stands in the way.
    """
    added, unit = wish.streams, math.sqrt(wish.ratio)
    problems: list[str] = []
    _refuse(tape, added, problems)
    owner = owner_of(graph.model, next(iter(graph.touched(added))).rpartition(".")[0])
    unfit: list[str] = []
    norms, copies = normed(tape), _copies(added)
    spare: Way | None = None
    # What is multiplied by a number of the width behind its weights is scaled by them, if there is no other way.
    for later in (False, True):
        said = problems if not later else []
        for target in _targets(graph, tape, wish, owner, unfit, norms):
            graph.refuse_left_behind(target.growth)
            like = {var: more for var, more in target.growth.items() if var in added or not growable(var, norms)}
            asked = _Asked(wish, like, unit, copies and not target.epsilon, said, later)
            for way in _ways(graph, tape, call, target, asked):
                if not copies or not stuck(way.reading):
                    return way
                spare = spare or way  # copies of heads may train where zeros can't
        if spare is not None or not problems:
            break
    if spare is not None:
        return spare
    if not problems:
        raise SurgeryError(_no_width(added, owner, unfit))
    raise SurgeryError(f"the residual stream can't grow without changing the function: {problems[-1]}")


@dataclass(frozen=True)
class _Asked:
    """What is asked of a way.

    Attributes:
        wish: What shall grow.
        like: The streams, and what grows like them → new units.
        unit: See `Way`.
        copies: Whether new channels may be copies.
        problems: Gets why there is no way.
        later: As in `Reading`.
    """

    wish: Wish
    like: Mapping[Var, int]
    unit: float
    copies: bool
    problems: list[str]
    later: bool


def _ways(graph: ChannelGraph, tape: Tape, call: Call, target: Target, asked: _Asked) -> Iterator[Way]:
    """Yield the ways in which a model can take a target's widths."""
    maps = _maps(target.growth, asked.wish, asked.like)
    layouts = {name: graph.layouts(name, maps) for name in graph.touched(maps)}
    for found, after in _fitting(_runs(graph, target, maps, layouts, call), tape, maps, layouts):
        numbers = powers(tape, after, asked.unit)
        reading = _read(tape, asked.like, numbers, asked.problems, copies=asked.copies, later=asked.later)
        if reading is None:
            continue
        _refuse_unread(graph, asked.like, reading)
        if reading.new is Kind.COPY:
            maps |= {var: _copied(var.size, more) for var, more in asked.like.items()}
            layouts = {name: graph.layouts(name, maps) for name in layouts}
        placed = dealt(graph, (tape, after), maps, layouts)
        if placed is None:
            asked.problems.append("the forward deals out channels or heads by a rule of its own")
            continue
        yield Way(found, reading, maps, placed, asked.unit)


def _fitting(
    runs: Iterator[tuple[Target, Tape]], tape: Tape, maps: Mapping[Var, UnitMap], layouts: Mapping[str, list[Layout]]
) -> Iterator[tuple[Target, Tape]]:
    """Yield one run: the first whose lengths are those of the volumes, else the first.

    A forward with 4 heads of 16 channels runs at a width of 96 as it is, with 4 heads of 24, whose attention divides by
    another root. It runs with 6 heads too, and these are what the volumes say.
    """
    first = None
    for found in runs:
        if not deals_otherwise((tape, found[1]), maps, layouts):
            first = found
            break
        first = first or found
    if first is not None:
        yield first


def _refuse_unread(graph: ChannelGraph, added: Mapping[Var, int], reading: Reading) -> None:
    """Refuse a stream that something holds which did not run in evaluation: how it would start is not known.

    Raises:
        SurgeryError: There is such a parameter.
    """
    streams = {id(var) for var in added}
    for name in graph.touched(added):
        for dim, expr in enumerate(graph.trace.spaces[name]):
            if (name, dim) not in reading.roles.fills and any(id(var) in streams for var in atoms(expr)):
                raise SurgeryError(
                    f"the residual stream can't grow: {name!r} holds it and was not used by the example in evaluation "
                    "mode; pass an example that runs it"
                )


def _no_width(added: Mapping[Var, int], owner: str | None, unfit: list[str]) -> str:
    head = f"the residual stream can't grow to {[var.size + more for var, more in added.items()]} channels: "
    if owner is None:
        return f"{head}the forward fails at that width, whatever numbers of its modules change, and with more heads too"
    why = f" ({unfit[0]})" if unfit else ""
    return f"{head}no change of the config builds a model of that width{why}; try a multiple of the width of heads"


def _refuse(tape: Tape, added: Mapping[Var, int], problems: list[str]) -> None:
    """Refuse at once what stands in the way at any width, whatever the config says.

    Raises:
        SurgeryError: Neither reading is possible.
    """
    if _read(tape, added, None, problems, copies=_copies(added)) is None:
        offer = "; an integer factor is exact, by copies" if _read(tape, added, None, [], copies=True) else ""
        raise SurgeryError(f"the residual stream can't grow without changing the function: {problems[-1]}{offer}")
    problems.clear()


def _copies(added: Mapping[Var, int]) -> bool:
    """Whether new channels can be copies of all old ones, each as often."""
    return all(more % var.size == 0 for var, more in added.items())


def _copied(size: int, added: int) -> UnitMap:
    """Layout of a volume whose new units are copies of all old ones, in their order.

    3 units and 3 copies::

        old      0  1  2 −1 −1 −1
        source   0  1  2  0  1  2
    """
    free = free_units(size, added)
    return Layout(free.old, np.arange(size + added) % size, np.ones(size + added), size, size)


def _read(
    tape: Tape,
    added: Mapping[Var, int],
    numbers: PowerOf | None,
    problems: list[str],
    *,
    copies: bool,
    later: bool = False,
) -> Reading | None:
    """Read a run with zeros, means or copies in the new channels; without numbers, powers don't count."""
    found: dict[Kind, str] = {}
    best: Reading | None = None
    for new in (Kind.ZERO, Kind.MEAN, *([Kind.COPY] if copies else [])):
        try:
            reading = read(tape, set(added), new, numbers, later=later)
            best = best or reading
            if not stuck(reading):
                return reading
        except (Refusal, UnevenError) as error:
            found[new] = str(error)
    if best is not None:
        return best
    layered = any(node.name in _LAYER_NORMS for node in tape.nodes)
    nor = f"; nor by copies: {found[Kind.COPY]}" if Kind.COPY in found else ""
    problems.append(f"{found[Kind.MEAN if layered else Kind.ZERO]}{nor}")
    return None


def _maps(growth: Mapping[Var, int], wish: Wish, like: Container[Var]) -> dict[Var, UnitMap]:
    """Layouts: free places in what grows like a stream; the rest by its method, or not heard yet."""
    rng = np.random.default_rng(0)
    chosen, silent = method_named(wish.method), method_named("netmorph")
    maps = {}
    for var, more in growth.items():
        method = chosen if more % chosen.step == 0 else silent
        free = var in like
        maps[var] = free_units(var.size, more) if free else method.unit_map(var.size, more, rng=rng)
    return maps


def _targets(
    graph: ChannelGraph, tape: Tape, wish: Wish, owner: str | None, unfit: list[str], norms: Container[int]
) -> Iterator[Target]:
    if owner is not None:
        yield from config_targets(graph, owner, wish, unfit, norms)
        return
    epsilons = tuple(_epsilons(graph, tape, wish.streams, wish.ratio))
    tied = {**wish.streams, **heads(graph, wish.ratio), **wish.others}
    growths = [{**wish.streams, **wish.others}, tied]
    for growth in growths[: 1 + (growths[0] != tied)]:
        for numbers in dict.fromkeys([epsilons, ()]):
            yield Target(growth, attributes=numbers, epsilon=bool(numbers))


def _epsilons(graph: ChannelGraph, tape: Tape, added: Mapping[Var, int], ratio: float) -> Iterator[AttributeChange]:
    """The eps of modules that norm the stream."""
    streams = {id(var) for var in added}
    places = {
        node.place
        for node in tape.nodes
        if node.name in (*_LAYER_NORMS, "_fused_rms_norm", "rms_norm", "mean", "var", "var_mean")
        and any(id(v) in streams for e in tape.facts[node.inputs[0].number].dims for v in atoms(e))
    }
    for path in sorted(places):
        for name, value in vars(graph.model.get_submodule(path)).items():
            if name in _EPSILONS and type(value) is float and value > 0:
                yield AttributeChange(path, name, value, value / ratio)


def _runs(graph: ChannelGraph, target: Target, maps: dict[Var, UnitMap], layouts: dict[str, list[Layout]],
          call: Call) -> Iterator[tuple[Target, Tape]]:  # fmt: skip
    """Run the model at its new widths, to see which numbers of the forward follow; new weights are zero."""
    stock = [c for c in standard_attributes(graph, maps, graph.shapes_after(layouts))
             if (c.path, c.name) not in {(d.path, d.name) for d in target.attributes}]  # fmt: skip
    tried: set[tuple[str, ...]] = set()
    for reach in (-1, 0, 1, 2, 99):
        guessed = [] if reach < 0 else guessed_attributes(graph, maps, list(layouts), reach=reach)
        known = {(c.path, c.name) for c in (*stock, *target.attributes)}
        numbers = (*target.attributes, *stock, *(c for c in guessed if (c.path, c.name) not in known))
        key = tuple(map(str, numbers))
        if key in tried:
            continue
        tried.add(key)
        found = Target(target.growth, target.configs, numbers, target.buffers, target.epsilon)
        tape = trial(graph, found, layouts, call)
        if tape is not None:
            yield found, tape


def trial(graph: ChannelGraph, target: Target, layouts: Mapping[str, list[Layout]], call: Call) -> Tape | None:
    """Run the model at its new widths and put it back; None where its forward fails."""
    with Transaction() as transaction:
        for name, own in layouts.items():
            tensor = graph.trace.tensors[name]
            data, grad = tensor.data, tensor.grad
            new = place_old(data, own)
            transaction.step(
                f"tensor {name}", partial(swap_data, tensor, new, None), partial(swap_data, tensor, data, grad)
            )
        set_target(transaction, graph.model, target)
        try:
            return Tape.again(graph, call)
        except Exception:  # whatever the model's forward raises
            return None
        finally:
            transaction.undo()


def set_target(transaction: Transaction, model: nn.Module, target: Target) -> None:
    """Set the numbers, configs and buffers of a wider model."""
    set_numbers(transaction, model, target.attributes)
    replace_configs(transaction, model, target.configs)
    for name, value in target.buffers:
        buffer = model.get_buffer(name)
        old, new = buffer.data, value.to(buffer.device)
        transaction.step(f"buffer {name}", partial(swap_data, buffer, new, None), partial(swap_data, buffer, old, None))
