"""Handlers of operations that only rearrange: views, permutations, concatenation."""

from typing import Any

import torch
from torch import Tensor

from graftwork.surgery._space import ONE, Expr, Misaligned, Reason, concat, cut, fresh, merge, size_of, split
from graftwork.surgery._trace import Info, Trace
from graftwork.surgery.operations._registry import OPERATIONS, bind, broadcast, dim_list, wrap

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def _derived(info: Info, dims: list[Expr], sources: list[frozenset[int]]) -> Info:
    return Info(dims, info.parameter, sources if info.parameter is not None else [], info.computed)


def _sources(info: Info) -> list[frozenset[int]]:
    return info.sources if info.parameter is not None else [frozenset()] * len(info.dims)


@OPERATIONS.handles(
    "alias",
    "clone",
    "detach",
    "_to_copy",
    "contiguous",
    "lift_fresh_copy",
    "lift",
    "to",
)
def _same(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    info = trace.info(args[0])
    trace.put(result, _derived(info, list(info.dims), list(_sources(info))))


@OPERATIONS.handles("as_strided_")
def _restrided(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """Pooling to one position gives its result the strides of another memory format, and moves nothing."""
    contiguous = torch.empty(tuple(result.shape), device="meta").stride()
    steps = zip(result.shape, result.stride(), contiguous, strict=True)
    if len(trace.info(args[0]).dims) != result.dim() or any(n > 1 and own != plain for n, own, plain in steps):
        raise Misaligned


@OPERATIONS.handles("view", "_unsafe_view", "reshape", "_reshape_alias")
def _view(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    if not isinstance(args[1], (list, tuple)):
        raise Misaligned  # view as another dtype
    info = trace.info(args[0])
    dims, sources = regroup(list(zip(info.dims, _sources(info), strict=True)), list(result.shape))
    trace.put(result, _derived(info, dims, sources))


def regroup(pieces: list[tuple[Expr, frozenset[int]]], shape: list[int]) -> tuple[list[Expr], list[frozenset[int]]]:
    """Follow a view: split and merge dimensions from the innermost outward.

    Args:
        pieces: Dimensions before, each with the parameter dimensions that it comes from.
        shape: Lengths after.

    Raises:
        Misaligned: A new dimension takes less of an old one than a whole factor.
    """
    pending = [(expr, source) for expr, source in pieces if size_of(expr) != 1]
    dims: list[Expr] = []
    sources: list[frozenset[int]] = []
    for size in reversed(shape):
        taken, origin, need = ONE, frozenset[int](), size
        while need > 1:
            if not pending:
                raise Misaligned
            expr, source = pending.pop()
            length = size_of(expr)
            if not length:  # a layer without units
                raise Misaligned
            if length > need:
                outer, expr = split(expr, need)
                pending.append((outer, source))
                length = need
            if need % length:
                raise Misaligned
            taken, origin, need = merge(expr, taken), origin | source, need // length
        dims.insert(0, taken)
        sources.insert(0, origin)
    return dims, sources


@OPERATIONS.handles("permute", "transpose", "t", "numpy_T", "movedim", "transpose_")
def _permute(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    info, ndim = trace.info(args[0]), len(trace.info(args[0]).dims)
    order = list(range(ndim))
    if "permute" in str(func):
        order = [wrap(dim, ndim) for dim in args[1]]
    elif "transpose" in str(func):
        a, b = wrap(args[1], ndim), wrap(args[2], ndim)
        order[a], order[b] = order[b], order[a]
    elif "movedim" in str(func):
        raise Misaligned
    else:
        order.reverse()
    sources = _sources(info)
    trace.put(result, _derived(info, [info.dims[i] for i in order], [sources[i] for i in order]))


@OPERATIONS.handles("unsqueeze", "unsqueeze_")
def _unsqueeze(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    info = trace.info(args[0])
    dims, sources = list(info.dims), list(_sources(info))
    at = wrap(args[1], result.dim())
    dims.insert(at, ONE)
    sources.insert(at, frozenset())
    trace.put(result, _derived(info, dims, sources))


@OPERATIONS.handles("squeeze", "squeeze_")
def _squeeze(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    info = trace.info(args[0])
    which = dim_list(args[1] if len(args) > 1 else None, len(info.dims))
    keep = [i for i, expr in enumerate(info.dims) if not (i in which and size_of(expr) == 1)]
    sources = _sources(info)
    trace.put(result, _derived(info, [info.dims[i] for i in keep], [sources[i] for i in keep]))


@OPERATIONS.handles("expand", "expand_as")
def _expand(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    info = trace.info(args[0])
    lead = result.dim() - len(info.dims)
    dims: list[Expr] = [fresh(size) for size in result.shape[:lead]]
    sources = [frozenset[int]()] * lead
    for expr, source, size in zip(info.dims, _sources(info), result.shape[lead:], strict=True):
        dims.append(expr if size_of(expr) == size else fresh(size))
        sources.append(source if size_of(expr) == size else frozenset())
    trace.put(result, _derived(info, dims, sources))


@OPERATIONS.handles("repeat")
def _repeat(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    info = trace.info(args[0])
    _produce_all(trace, info)
    lead = result.dim() - len(info.dims)
    dims = [fresh(size) for size in result.shape[:lead]]
    dims += [merge(fresh(count), expr) for count, expr in zip(args[1][lead:], info.dims, strict=True)]
    trace.put(result, Info(dims, computed=info.computed or info.parameter is not None))


@OPERATIONS.handles("split", "unsafe_split", "split_with_sizes", "unsafe_split_with_sizes", "chunk", "unsafe_chunk")
def _split(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    info = trace.info(args[0])
    dim = wrap(bind(func, args, kwargs)["dim"], len(info.dims))
    rest, pieces, sources = info.dims[dim], [], list(_sources(info))
    for tensor in result:
        piece, rest = cut(rest, tensor.shape[dim])
        pieces.append(piece)
        dims = list(info.dims)
        dims[dim] = piece
        trace.put(tensor, _derived(info, dims, sources))
    if len({size_of(piece) for piece in pieces}) == 1 and len(pieces) > 1:
        trace.ties.append(pieces)


@OPERATIONS.handles("unbind")
def _unbind(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    info = trace.info(args[0])
    dim = wrap(args[1] if len(args) > 1 else 0, len(info.dims))
    trace.freeze(info.dims[dim], "a dimension that is unbound index by index")
    for piece in result:
        _drop(trace, info, dim, piece)


@OPERATIONS.handles("select")
def _select(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    info = trace.info(args[0])
    dim = wrap(args[1], len(info.dims))
    trace.freeze(info.dims[dim], "a dimension from which one index is selected")
    _drop(trace, info, dim, result)


def _drop(trace: Trace, info: Info, dim: int, result: Tensor) -> None:
    dims, sources = list(info.dims), list(_sources(info))
    del dims[dim], sources[dim]
    trace.put(result, _derived(info, dims, sources))


@OPERATIONS.handles("slice", "narrow")
def _slice(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    info = trace.info(args[0])
    values = bind(func, args, kwargs)
    dim = wrap(values["dim"] or 0, len(info.dims))
    length, new = size_of(info.dims[dim]), result.shape[dim]
    dims = list(info.dims)
    step = values.get("step", 1)
    if step != 1:
        trace.freeze(info.dims[dim], "a dimension that is sliced with a step")
        dims[dim] = fresh(new, Reason(f"a dimension that is sliced with a step{trace.where()}"))
    elif new != length:
        start = values.get("start") or 0
        start = min(max(start + length if start < 0 else start, 0), length)
        before, rest = cut(info.dims[dim], start)
        dims[dim], after = cut(rest, new)
        _tie_halves(trace, [before, dims[dim], after])
    trace.put(result, _derived(info, dims, list(_sources(info))))


def _tie_halves(trace: Trace, pieces: list[Expr]) -> None:
    """Tie the halves of a cut in the middle: ``x[:, : n // 2]`` stays there only if both grow alike."""
    lengths = [size_of(piece) for piece in pieces if piece]
    if len(lengths) == 2 and lengths[0] == lengths[1]:
        trace.ties.append([piece for piece in pieces if piece])


@OPERATIONS.handles("cat", "concat", "concatenate")
def _cat(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    values = bind(func, args, kwargs)
    tensors = [t for t in values["tensors"] if tuple(t.shape) != (0,)]
    dim = wrap(values["dim"], result.dim())
    infos = [trace.info(tensor) for tensor in tensors]
    for info in infos:
        _produce_all(trace, info)
        for i, expr in enumerate(info.dims):
            if i != dim:
                trace.couple(infos[0].dims[i], expr, "concatenation")
    dims = list(infos[0].dims)
    dims[dim] = concat([info.dims[dim] for info in infos])
    trace.put(result, Info(dims, computed=all(i.computed or i.parameter is not None for i in infos)))


@OPERATIONS.handles("stack")
def _stack(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    values = bind(func, args, kwargs)
    info = broadcast(trace, values["tensors"], tuple(values["tensors"][0].shape), "stack")
    at = wrap(values["dim"], result.dim())
    dims = list(info.dims)
    dims.insert(at, fresh(result.shape[at], Reason(f"a dimension made by stacking{trace.where()}")))
    trace.put(result, Info(dims, computed=info.computed))


def _produce_all(trace: Trace, info: Info) -> None:
    for dim in range(len(info.dims)):
        trace.use(info, dim, consumed=False)


@OPERATIONS.handles("constant_pad_nd")
def _pad(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    info, widths = trace.info(args[0]), list(args[1])
    _produce_all(trace, info)
    dims = list(info.dims)
    for i in range(len(widths) // 2):
        dim = len(dims) - 1 - i
        left, right = widths[2 * i], widths[2 * i + 1]
        if min(left, right) < 0:
            raise Misaligned
        zeros = Reason(f"channels padded with zeros{trace.where()}")
        before, after = ([fresh(n, zeros)] if n else [] for n in (left, right))
        dims[dim] = concat([*before, dims[dim], *after])
    trace.put(result, Info(dims, computed=info.computed))


@OPERATIONS.handles("flip", "roll")
def _roll(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    info = trace.info(args[0])
    _produce_all(trace, info)
    values = bind(func, args, kwargs)
    for dim in dim_list(values["dims"], len(info.dims)):
        trace.freeze(info.dims[dim], "a dimension that is rolled or flipped")
    trace.put(result, Info(list(info.dims), computed=info.computed))


@OPERATIONS.handles("unfold")
def _unfold(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    info = trace.info(args[0])
    dim = wrap(args[1], len(info.dims))
    trace.freeze(info.dims[dim], "a dimension that windows slide over")
    dims = list(info.dims)
    dims[dim] = fresh(result.shape[dim])
    trace.put(result, Info([*dims, fresh(result.shape[-1])], computed=info.computed))


@OPERATIONS.handles("im2col")
def _im2col(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = trace.info(args[0]).dims
    for expr in dims[2:]:
        trace.freeze(expr, "a dimension that windows slide over")
    taps = result.shape[1] // size_of(dims[1])
    trace.put(result, Info([dims[0], merge(dims[1], fresh(taps)), fresh(result.shape[2])]))


@OPERATIONS.handles("col2im")
def _col2im(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = trace.info(args[0]).dims
    channels, taps = split(dims[1], size_of(dims[1]) // result.shape[1])
    for expr in (taps, dims[2]):
        trace.freeze(expr, "a dimension that windows slide over")
    trace.put(result, Info([dims[0], channels, *(fresh(n) for n in result.shape[2:])]))


@OPERATIONS.handles("pixel_shuffle")
def _pixel_shuffle(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = trace.info(args[0]).dims
    channels, block = split(dims[-3], args[1] ** 2)
    for expr in (block, *dims[-2:]):
        trace.freeze(expr, "a dimension that becomes pixels")
    trace.put(result, Info([*dims[:-3], channels, *(fresh(n) for n in result.shape[-2:])]))


@OPERATIONS.handles("pixel_unshuffle")
def _pixel_unshuffle(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = trace.info(args[0]).dims
    for expr in dims[-2:]:
        trace.freeze(expr, "a dimension of pixels that become channels")
    channels = merge(dims[-3], fresh(args[1] ** 2))
    trace.put(result, Info([*dims[:-3], channels, *(fresh(n) for n in result.shape[-2:])]))


@OPERATIONS.handles("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    dims = list(trace.info(args[0]).dims)
    groups, inner = split(dims[1], size_of(dims[1]) // args[1])
    dims[1] = merge(inner, groups)
    trace.put(result, Info(dims))


@OPERATIONS.handles("diagonal")
def _diagonal(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    raise Misaligned
