"""Rows of weights that a forward deals out by the numbers of the wider model, and not unit by unit.

The algebra of volumes lets a dimension grow in whole units: 4 parts × 24 rows become 6 × 24. A forward may hold the
number of parts and let their length follow instead, 4 × 36. Where the wider model's shapes show that, the numbers of
rows run through its views and slices, in the old model and in the wider one, up to the operation that computes with
them. What stands in one place there is one row::

    old    rows 0 … 31  →  view(4, 8)   →  heads(4, 8)     head 1, channel 2 is row 10
    wider  rows 0 … 47  →  view(4, 12)  →  heads(6, 8)     head 1, channel 2 is row 10 of the first part of 12
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._layout import Ints, Layout, UnitMap, layout_of
from graftwork.surgery._space import Var, resolve
from graftwork.surgery.streams._tape import Fact, Node, Ref, Tape

_MAPS = {"mm": "mat2", "addmm": "mat2", "linear": "weight"}
_PICKS = {"index", "index_select", "gather", "flip", "roll"}
_MOVES = {
    "alias", "clone", "detach", "contiguous", "view", "_unsafe_view", "reshape", "permute", "transpose", "unsqueeze",
    "squeeze", "slice", "narrow", "select", "split", "split_with_sizes", "chunk", "unbind",
}  # fmt: skip


def dealt(
    graph: ChannelGraph,
    tapes: tuple[Tape, Tape],
    maps: Mapping[Var, UnitMap],
    layouts: Mapping[str, list[Layout]],
) -> dict[str, list[Layout]] | None:
    """Return the layouts of grown tensors, with rows where the wider model deals them to; None where no order fits.

    Args:
        graph: The model, as it was traced.
        tapes: Its run, and a run with its new lengths.
        maps: Volume → its layout.
        layouts: Name → the layout of each dimension, as the volumes say; kept where rows can't be followed.
    """
    found = {name: list(own) for name, own in layouts.items()}
    for name, before, after in _dealt_otherwise(tapes, maps, layouts):
        old = _matched(before, after, layouts[name][0])
        if old is None and len(before) == len(after):
            return None
        expr = resolve(graph.trace.spaces[name][0])
        for other, dims in found.items():
            for dim, same in enumerate(graph.trace.spaces[other]):
                if resolve(same) == expr and old is not None:
                    dims[dim] = replace(dims[dim], old=old)
    return found


def deals_otherwise(tapes: tuple[Tape, Tape], maps: Mapping[Var, UnitMap], layouts: Mapping[str, list[Layout]]) -> bool:
    """Whether the wider model deals out some weight's rows in another way than the volumes say; see `dealt`."""
    return any(True for _ in _dealt_otherwise(tapes, maps, layouts))


def _dealt_otherwise(
    tapes: tuple[Tape, Tape], maps: Mapping[Var, UnitMap], layouts: Mapping[str, list[Layout]]
) -> "Iterator[tuple[str, list[_Step], list[_Step]]]":
    """Name and steps, before and after, of weights whose products have other lengths than the volumes say."""
    chains = [_chains(tape) for tape in tapes]
    for name, own in layouts.items():
        before, after = (chain.get(name, []) for chain in chains)
        if own[0].grows and _differs(before, after, maps):
            yield name, before, after


@dataclass(frozen=True)
class _Step:
    """A tensor that shows products of a weight's rows, and the operation that makes it from another such or uses it.

    Attributes:
        node: The operation.
        fact: What is known of the tensor.
        number: Its number.
        source: Number of the tensor that the operation has moved; None where it is the product itself, or used.
        used: Whether something is computed from it as it is.
    """

    node: Node
    fact: Fact
    number: int
    source: int | None = None
    used: bool = False


def _chains(tape: Tape) -> dict[str, list[_Step]]:
    """Name of a weight → the steps of its products, in order."""
    names: dict[int, str] = {}
    found: dict[str, list[_Step]] = {}

    def note(name: str, node: Node, ref: Ref, source: int | None = None, *, used: bool = False) -> None:
        found.setdefault(name, []).append(_Step(node, tape.facts[ref.number], ref.number, source, used))
        if not used:
            names[ref.number] = name

    for node in tape.nodes:
        weight = node.values.get(_MAPS.get(node.name, ""))
        taken = [ref for ref in node.inputs if ref.number in names]
        if isinstance(weight, Ref) and (maker := tape.facts[weight.number].parameter) is not None:
            note(maker, node, node.outputs[0])
        elif taken and node.name in _MOVES and node.inputs[0].number in names:
            for ref in node.outputs:
                note(names[node.inputs[0].number], node, ref, node.inputs[0].number)
            continue
        for ref in taken:
            note(names[ref.number], node, ref, used=True)
    return found


def _differs(before: list[_Step], after: list[_Step], maps: Mapping[Var, UnitMap]) -> bool:
    """Whether the wider model takes other steps, or its tensors have other lengths than the volumes say."""
    return len(before) != len(after) or any(
        tuple(layout_of(expr, maps).new_size for expr in step.fact.dims) != wider.fact.shape
        for step, wider in zip(before, after, strict=True)
    )


def _matched(before: list[_Step], after: list[_Step], layout: Layout) -> Ints | None:
    """Which old row every new one is, as they stand in the same place where they are computed with; None if unknown."""
    twins = not np.array_equal(layout.source, np.arange(layout.new_size))  # or copies, whose places are not free
    if twins or any(step.used and step.node.name in _PICKS for step in before):
        return None
    old = np.full(layout.new_size, -1, dtype=np.int64)
    pairs = [list(_places(steps)) for steps in (before, after)]
    if len(pairs[0]) != len(pairs[1]):
        return None
    for rows, wider in zip(*pairs, strict=True):
        if rows.dim() != wider.dim() or any(m > n for m, n in zip(rows.shape, wider.shape, strict=True)):
            return None
        old[wider[tuple(slice(n) for n in rows.shape)].flatten().numpy()] = rows.flatten().numpy()
    return old if sorted(old[old >= 0].tolist()) == list(range(layout.size)) else None


def _places(steps: list[_Step]) -> Iterator[Tensor]:
    """The numbers of the rows that made each entry of every tensor that is used."""
    rows: dict[int, Tensor] = {}
    for step in steps:
        if step.used:
            yield rows[step.number]
        elif step.source is None:
            rows[step.number] = torch.arange(step.fact.shape[-1]).expand(step.fact.shape).contiguous()
        else:
            first = next(iter(step.node.values))
            made = step.node.func(**{**step.node.values, first: rows[step.source]})
            parts = made if isinstance(made, (list, tuple)) else [made]
            rows[step.number] = parts[[ref.number for ref in step.node.outputs].index(step.number)]
