"""Handlers of operations that write to, or read from, places given by an index: scatter, gather, index."""

import math
from typing import Any

import torch
from torch import Tensor

from graftwork.surgery._space import Expr, Misaligned, Reason, cut, fresh, size_of
from graftwork.surgery._trace import Info, Trace
from graftwork.surgery.operations._registry import OPERATIONS, bind, broadcast, op_name, wrap

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

_READ = "a dimension that is indexed by a tensor"
_WRITTEN = "a dimension that is written to by index"


@OPERATIONS.handles(
    "scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_",
)  # fmt: skip
def _scatter(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """``out[index[i, j], j] += src[i, j]``: dimensions other than the indexed one meet element by element."""
    values = bind(func, args, kwargs)
    others = [value for value in (values["index"], values.get("src")) if isinstance(value, Tensor)]
    _write(trace, args, result, dim=values["dim"], others=others)


@OPERATIONS.handles("index_add", "index_add_", "index_copy", "index_copy_", "index_fill", "index_fill_", "index_reduce",
                  "index_reduce_")  # fmt: skip
def _index_add(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """``out[index[i], j] += source[i, j]``: the index is a vector, so it meets no other dimension."""
    values = bind(func, args, kwargs)
    for expr in trace.info(values["index"]).dims:
        trace.freeze(expr, "an index")
    source = values.get("source")
    _write(trace, args, result, dim=values["dim"], others=[source] if isinstance(source, Tensor) else [])


def _write(trace: Trace, args: Args, result: Any, *, dim: int, others: list[Tensor]) -> None:
    """Freeze the dimension that an index runs over, in the target and what is written; unify the rest."""
    target = trace.info(args[0])
    dim = wrap(dim, len(target.dims))
    infos = [trace.info(tensor) for tensor in others]
    for info in (target, *infos):
        if len(info.dims) != len(target.dims):
            raise Misaligned
        for i, expr in enumerate(info.dims):
            trace.use(info, i, consumed=False)
            if i == dim:
                trace.freeze(expr, _WRITTEN)
            elif size_of(expr) != size_of(target.dims[i]):
                # Only a stretch of the dimension is written to: which one would change with the length.
                trace.freeze(expr, _WRITTEN)
                trace.freeze(target.dims[i], _WRITTEN)
            elif expr is not target.dims[i]:
                trace.couple(target.dims[i], expr, "writing by index")
    if result is not args[0]:
        trace.put(result, Info(list(target.dims), computed=any(i.computed for i in (target, *infos))))


@OPERATIONS.handles("index", "_unsafe_index")
def _index(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    info = trace.info(args[0])
    indices = list(args[1])
    if any(_is_mask(index) for index in indices):
        _select_by_mask(trace, info, indices, result)
        return
    indices += [None] * (len(info.dims) - len(indices))
    if len(indices) != len(info.dims):
        raise Misaligned
    if (part := _part(trace, info, indices)) is not None:
        trace.put(result, part)
        return
    for dim, index in enumerate(indices):
        trace.use(info, dim, consumed=False)
        if index is not None:
            trace.freeze(info.dims[dim], _READ)
    used = [i for i, index in enumerate(indices) if index is not None]
    tensors = [index for index in indices if index is not None]
    shape = tuple(torch.broadcast_shapes(*(t.shape for t in tensors)))  # type: ignore[no-untyped-call]
    picked = broadcast(trace, tensors, shape, "indexing").dims
    kept = [expr for i, expr in enumerate(info.dims) if i not in used]
    adjacent = used == list(range(used[0], used[-1] + 1))
    at = used[0] if adjacent else 0
    trace.put(result, Info(kept[:at] + picked + kept[at:], computed=_from_parameters(info)))


def _part(trace: Trace, info: Info, indices: list[Any]) -> Info | None:
    """What ``x[..., [-2], :]`` gives: neighbours that are counted from the end are a part, as a slice is."""
    dim = next(dim for dim, index in enumerate(indices) if index is not None)
    if sum(index is not None for index in indices) != 1 or indices[dim].dim() != 1 or trace.depends(indices[dim]):
        return None
    places, length = indices[dim].tolist(), size_of(info.dims[dim])
    if not places or places[-1] >= 0 or places != list(range(places[0], places[-1] + 1)):
        return None
    for at in range(len(info.dims)):
        trace.use(info, at, consumed=False)
    _, rest = cut(info.dims[dim], length + places[0])
    dims = list(info.dims)
    dims[dim], _ = cut(rest, len(places))
    return Info(dims, computed=_from_parameters(info))


def _select_by_mask(trace: Trace, info: Info, indices: list[Any], result: Any) -> None:
    """``x[mask]`` with one mask: its dimensions become one, as long as the mask has entries."""
    start, covered = _masked(trace, info, indices)
    for dim in range(len(info.dims)):
        trace.use(info, dim, consumed=False)
    chosen = fresh(result.shape[start], Reason(f"a dimension chosen by a mask{trace.where()}"))
    dims = [*info.dims[:start], chosen, *info.dims[start + covered :]]
    trace.put(result, Info(dims, computed=_from_parameters(info)))


def _masked(trace: Trace, info: Info, indices: list[Any]) -> tuple[int, int]:
    """The first dimension of a mask and how many it covers, all frozen."""
    given = [index for index in indices if index is not None]
    if len(given) != 1:
        raise Misaligned  # masks together with other indices
    mask, start = given[0], next(i for i, index in enumerate(indices) if index is not None)
    for i, expr in enumerate(trace.info(mask).dims):
        trace.freeze(expr, "a dimension of a mask")
        trace.freeze(info.dims[start + i], "a dimension that a mask chooses from")
    return start, mask.dim()


@OPERATIONS.handles("index_put", "index_put_", "_unsafe_index_put")
def _index_put(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """``x[index] = values``: what is not indexed meets the last dimensions of the values."""
    info, indices, values = trace.info(args[0]), list(args[1]), args[2]
    if indices and indices[0] is None and math.prod(values.shape) != 1:
        raise Misaligned
    if any(_is_mask(index) for index in indices):
        start, covered = _masked(trace, info, indices)
        last = start + covered
    else:
        last = len(indices)
        for dim, index in enumerate(indices):
            if index is not None:
                trace.freeze(info.dims[dim], _WRITTEN)
                for expr in trace.info(index).dims:
                    trace.freeze(expr, "an index")
    written = trace.info(values)
    for back, own in enumerate(reversed(info.dims[last:]), start=1):
        if back <= len(written.dims) and values.shape[-back] == size_of(own):
            trace.use(written, len(written.dims) - back, consumed=False)
            trace.couple(own, written.dims[-back], "writing by index")
    for expr in written.dims[: max(len(written.dims) - len(info.dims[last:]), 0)]:
        trace.freeze(expr, _WRITTEN)
    if result is not args[0]:
        trace.put(result, Info(list(info.dims), computed=info.computed))


@OPERATIONS.handles("index_select", "gather", "take_along_dim")
def _gather(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    info = trace.info(args[0])
    dim = wrap(args[1], len(info.dims))
    trace.freeze(info.dims[dim], _READ)
    whole = op_name(func) == "index_select"
    dims: list[Expr] = []
    for i, expr in enumerate(info.dims):
        trace.use(info, i, consumed=False)
        if i == dim or size_of(expr) != result.shape[i]:
            trace.freeze(expr, _READ)
            dims.append(fresh(result.shape[i], Reason(f"a dimension made by indexing{trace.where()}")))
        else:
            if not whole:
                trace.couple(expr, trace.info(args[2]).dims[i], "gather")
            dims.append(expr)
    trace.put(result, Info(dims, computed=_from_parameters(info)))


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in {torch.bool, torch.uint8}


def _from_parameters(info: Info) -> bool:
    return info.computed or info.parameter is not None
