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
from graftwork.surgery._layout import Layout, UnitMap, layout_of
from graftwork.surgery._space import Var, resolve
from graftwork.surgery.streams._tape import Fact, Node, Tape

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
    for name, own in layouts.items():
        if not own[0].grows:
            continue
        before, after = (list(_ways(tape, name)) for tape in tapes)
        if not _differs(before, after, maps):
            continue
        old = _matched([way for way in before if way.used], [way for way in after if way.used], own[0])
        if old is None and len(before) == len(after):
            return None
        expr = resolve(graph.trace.spaces[name][0])
        for other, dims in found.items():
            for dim, same in enumerate(graph.trace.spaces[other]):
                if resolve(same) == expr and old is not None:
                    dims[dim] = replace(dims[dim], old=old)
    return found


@dataclass(frozen=True)
class _Way:
    """A tensor that shows products of a weight's rows.

    Attributes:
        fact: What is known of it.
        rows: The number of the row that made each of its entries.
        used: Whether something is computed from it as it is.
        followed: Whether the operation that takes it could not have moved its entries.
    """

    fact: Fact
    rows: Tensor
    used: bool
    followed: bool = True


def _ways(tape: Tape, name: str) -> Iterator[_Way]:
    rows: dict[int, Tensor] = {}
    for node in tape.nodes:
        if node.name in _MAPS and tape.facts[node.values[_MAPS[node.name]].number].parameter == name:
            shape = tape.facts[node.outputs[0].number].shape
            rows[node.outputs[0].number] = torch.arange(shape[-1]).expand(shape).contiguous()
        elif node.name in _MOVES and node.inputs and node.inputs[0].number in rows:
            for ref, own in zip(node.outputs, _moved(node, rows[node.inputs[0].number]), strict=True):
                rows[ref.number] = own
                yield _Way(tape.facts[ref.number], own, used=False)
        else:
            for ref in node.inputs:
                if ref.number in rows:
                    yield _Way(tape.facts[ref.number], rows[ref.number], used=True, followed=node.name not in _PICKS)


def _moved(node: Node, rows: Tensor) -> list[Tensor]:
    names = list(node.values)
    made = node.func(**{**node.values, names[0]: rows})
    return list(made) if isinstance(made, (list, tuple)) else [made]


def _differs(before: list[_Way], after: list[_Way], maps: Mapping[Var, UnitMap]) -> bool:
    """Whether the wider model takes other steps, or its tensors have other lengths than the volumes say."""
    return len(before) != len(after) or any(
        tuple(layout_of(expr, maps).new_size for expr in way.fact.dims) != wider.rows.shape
        for way, wider in zip(before, after, strict=True)
    )


def _matched(
    before: list[_Way], after: list[_Way], layout: Layout
) -> "np.ndarray[tuple[int], np.dtype[np.int64]] | None":
    """Which old row every new one is, as they stand in the same place where they are computed with; None if unknown."""
    old = np.full(layout.new_size, -1, dtype=np.int64)
    twins = not np.array_equal(layout.source, np.arange(layout.new_size))  # or copies, whose places are not free
    if twins or len(before) != len(after) or not all(way.followed for way in before):
        return None
    for way, wider in zip(before, after, strict=True):
        if way.rows.dim() != wider.rows.dim() or any(
            m > n for m, n in zip(way.rows.shape, wider.rows.shape, strict=True)
        ):
            return None
        old[wider.rows[tuple(slice(n) for n in way.rows.shape)].flatten().numpy()] = way.rows.flatten().numpy()
    return old if sorted(old[old >= 0].tolist()) == list(range(layout.size)) else None
