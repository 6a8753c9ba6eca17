"""Handlers of operations that sum over channels: linear maps, convolutions, matrix products, attention."""

from typing import Any

from torch import Tensor

from graftwork.surgery._space import Expr, Misaligned, Reason, freeze, fresh, merge, size_of, split
from graftwork.surgery._trace import LOOKED_UP, Info, Trace
from graftwork.surgery.operations._registry import OPERATIONS, bind, broadcast
from graftwork.surgery.operations._reparametrized import parametrization

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
_COMPUTED = "a sum over channels whose weight is computed from parameters, not a parameter,"


def contract(trace: Trace, left: tuple[Info, int], right: tuple[Info, int]) -> None:
    """Follow a sum over a dimension of two operands; the weight is the one that consumes.

    Where both are activations (the scores of attention, a Gram matrix), twins would be counted twice: frozen.
    Where the weight is computed (a parametrization, weight standardization), its columns can't be set
    directly.
    """
    (a, i), (b, j) = left, right
    expr = a.dims[i]
    trace.couple(expr, b.dims[j], "a matrix product")
    if b.parameter is not None:
        trace.use(b, j, consumed=True)
        trace.use(a, i, consumed=False)
    elif a.parameter is not None:
        trace.use(a, i, consumed=True)
    elif (made := parametrization(trace)) is not None:
        freeze(expr, made)
    elif a.computed or b.computed:
        trace.freeze(expr, _COMPUTED)
    else:
        trace.freeze(expr, "a product of two activations that sums over the dimension (head dimension)")


def _free(trace: Trace, info: Info, dim: int) -> Expr:
    """A dimension of an operand that survives the product."""
    trace.produces(info, dim)
    if info.computed and info.parameter is None:
        trace.computed.add(trace.place)
    return info.dims[dim]


def _both_computed(*infos: Info) -> bool:
    return all(info.computed or info.parameter is not None for info in infos)


def _bias(trace: Trace, bias: Tensor | None, dims: list[Expr]) -> None:
    if bias is None:
        return
    info = trace.info(bias)
    for back in range(1, bias.dim() + 1):
        if bias.shape[-back] == 1:
            continue
        trace.use(info, bias.dim() - back, consumed=False)
        trace.couple(dims[-back], info.dims[-back], "a bias")


@OPERATIONS.handles("mm", "bmm", "addmm", "baddbmm", "addbmm")
def _matmul(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    name = str(func)
    if "addbmm" in name and "baddbmm" not in name:
        raise Misaligned
    bias = args[0] if "add" in name else None
    x, y = args[1:3] if bias is not None else args[:2]
    a, b = trace.info(x), trace.info(y)
    batch = x.dim() - 2
    dims: list[Expr] = []
    for i in range(batch):
        trace.couple(a.dims[i], b.dims[i], "a batched product")
        trace.use(a, i, consumed=False)
        trace.use(b, i, consumed=False)
        dims.append(a.dims[i])
    contract(trace, (a, batch + 1), (b, batch))
    dims += [_free(trace, a, batch), _free(trace, b, batch + 1)]
    _bias(trace, bias, dims)
    trace.put(result, Info(dims, computed=_both_computed(a, b)))


@OPERATIONS.handles("_grouped_mm")
def _grouped_matmul(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """Runs of rows times one matrix each, as experts share them out: ``[rows, in] × [experts, in, out]``."""
    values = bind(func, args, kwargs)
    a, b = trace.info(values["self"]), trace.info(values["mat2"])
    if (len(a.dims), len(b.dims)) != (2, 3) or values.get("bias") is not None:
        raise Misaligned
    trace.freeze(b.dims[0], "experts, which a router chooses from")
    trace.use(b, 0, consumed=False)
    contract(trace, (a, 1), (b, 1))
    trace.put(result, Info([a.dims[0], _free(trace, b, 2)]))


@OPERATIONS.handles("mv", "addmv", "dot", "vdot")
def _matvec(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    bias = args[0] if "addmv" in str(func) else None
    x, y = args[1:3] if bias is not None else args[:2]
    a, b = trace.info(x), trace.info(y)
    contract(trace, (a, x.dim() - 1), (b, 0))
    dims = [_free(trace, a, 0)] if x.dim() == 2 else []
    _bias(trace, bias, dims)
    trace.put(result, Info(dims, computed=_both_computed(a, b)))


@OPERATIONS.handles("linear")
def _linear(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    a, w = trace.info(args[0]), trace.info(args[1])
    contract(trace, (a, len(a.dims) - 1), (w, 1))
    dims = [*a.dims[:-1], _free(trace, w, 0)]
    _bias(trace, args[2] if len(args) > 2 else None, dims)
    trace.put(result, Info(dims, computed=_both_computed(a, w)))


@OPERATIONS.handles("outer", "ger")
def _outer(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    a, b = trace.info(args[0]), trace.info(args[1])
    for info in (a, b):
        trace.use(info, 0, consumed=False)
    trace.put(result, Info([a.dims[0], b.dims[0]], computed=_both_computed(a, b)))


@OPERATIONS.handles("convolution", "_convolution", "mkldnn_convolution")
def _convolution(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    values = bind(func, args, kwargs)
    x, w = trace.info(values["input"]), trace.info(values["weight"])
    groups, transposed = values["groups"], values.get("transposed", False)
    for expr in x.dims[2:]:
        trace.freeze(expr, "a dimension that a convolution slides over")
    for dim in range(2, len(w.dims)):
        trace.freeze(w.dims[dim], "the kernel size of a convolution")
    if groups == 1:
        contract(trace, (x, 1), (w, 0 if transposed else 1))
        out = _free(trace, w, 1 if transposed else 0)
    else:
        try:
            out = _grouped(trace, x, w, groups=groups, transposed=transposed)
        except Misaligned:
            trace.produces(w, 1 if transposed else 0)  # so that the site is refused by its name
            raise Misaligned(
                f"takes {groups} groups across channels that a shuffle (view, transpose, view) has interleaved, "
                "which a larger width would deal out in another way"
            ) from None
    bias = values["bias"]
    if bias is not None:
        info = trace.info(bias)
        trace.use(info, 0, consumed=False)
        trace.couple(out, info.dims[0], "a bias")
    trace.put(result, Info([x.dims[0], out, *(fresh(n) for n in result.shape[2:])]))


def _grouped(trace: Trace, x: Info, w: Info, *, groups: int, transposed: bool) -> Expr:
    """Channels are (group, channel in group): groups act like channels, channels in a group are summed."""
    group, inside = split(x.dims[1], size_of(x.dims[1]) // groups)
    if not transposed:
        own, _ = split(w.dims[0], size_of(w.dims[0]) // groups)
        trace.couple(group, own, "a grouped convolution")
        _contract_part(trace, inside, w, 1, w.dims[1])
        out = _free(trace, w, 0)
    else:
        own, weight_inside = split(w.dims[0], size_of(w.dims[0]) // groups)
        trace.couple(group, own, "a grouped convolution")
        trace.use(w, 0, consumed=False, expr=own)
        _contract_part(trace, inside, w, 0, weight_inside)
        trace.produces(w, 1)
        out = merge(group, w.dims[1])
    trace.groups[trace.place] = group
    return out


def _contract_part(trace: Trace, inside: Expr, w: Info, dim: int, expr: Expr) -> None:
    if size_of(inside) == 1:
        return
    trace.couple(inside, expr, "a grouped convolution")
    if w.parameter is None:
        freeze(expr, parametrization(trace) or Reason(f"{_COMPUTED}{trace.where()}"))
    trace.use(w, dim, consumed=True, expr=expr)


@OPERATIONS.handles("embedding")
def _embedding(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    w, index = trace.info(args[0]), trace.info(args[1])
    trace.freeze(w.dims[0], LOOKED_UP)
    trace.use(w, 0, consumed=False)
    trace.produces(w, 1)
    trace.put(result, Info([*index.dims, w.dims[1]]))


@OPERATIONS.handles("_embedding_bag", "_embedding_bag_forward_only")
def _embedding_bag(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """Rows that are looked up are summed, averaged or their largest taken, each channel alone."""
    w = trace.info(args[0])
    trace.freeze(w.dims[0], LOOKED_UP)
    trace.use(w, 0, consumed=False)
    trace.produces(w, 1)
    bags, *others = result
    trace.put(bags, Info([fresh(bags.shape[0]), w.dims[1]]))
    for other in others:
        trace.put(other, Info([fresh(n) for n in other.shape]))


@OPERATIONS.handles("_trilinear")
def _trilinear(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """A bilinear layer: ``y[b, o] = Σ x[b, i] w[o, i, j] z[b, j]`` over i and j, as a product over (b, o, i, j)."""
    values = bind(func, args, kwargs)
    operands = [(trace.info(values[f"i{n}"]), values[f"expand{n}"]) for n in (1, 2, 3)]
    dims: list[Expr] = []
    for place in range(len(operands[0][0].dims) + len(operands[0][1])):
        held = [(info, place - sum(gap < place for gap in gaps)) for info, gaps in operands if place not in gaps]
        if place not in values["sumdim"]:
            for info, dim in held:
                trace.couple(held[0][0].dims[held[0][1]], _free(trace, info, dim), "a bilinear product")
            dims.append(held[0][0].dims[held[0][1]])
        elif len(held) == 2:
            contract(trace, *held)
        else:
            raise Misaligned
    trace.put(result, Info(dims))


@OPERATIONS.handles(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_attention_math",
    "scaled_dot_product_attention",
)
def _attention(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """Heads act like channels; queries and keys are summed over the head dimension; keys are mixed."""
    values = bind(func, args, kwargs)
    q, k, v = (trace.info(values[name]) for name in ("query", "key", "value"))
    for dim in range(len(q.dims) - 2):
        for other in (k, v):
            _couple_heads(trace, q.dims[dim], other.dims[dim])
    trace.couple(q.dims[-1], k.dims[-1], "attention")
    trace.freeze(q.dims[-1], "the head dimension of attention (queries and keys are summed over it)")
    trace.freeze(k.dims[-2], "a dimension that attention mixes")
    trace.couple(k.dims[-2], v.dims[-2], "attention")
    mask = values.get("attn_mask", values.get("attn_bias"))
    scores = [*q.dims[:-1], k.dims[-2]]
    if isinstance(mask, Tensor):
        info = trace.info(mask)
        for back in range(1, mask.dim() + 1):
            if mask.shape[-back] != 1:
                trace.use(info, mask.dim() - back, consumed=False)
                trace.couple(scores[-back], info.dims[-back], "an attention mask")
    first, *others = result if isinstance(result, (tuple, list)) else (result,)
    trace.put(first, Info([*q.dims[:-1], v.dims[-1]]))
    for extra in others:
        if isinstance(extra, Tensor):
            heads = q.dims[: extra.dim()] if extra.shape == values["query"].shape[: extra.dim()] else None
            trace.put(extra, Info(list(heads) if heads else [fresh(n) for n in extra.shape]))


def _couple_heads(trace: Trace, queries: Expr, keys: Expr) -> None:
    """Grouped queries: every key head serves a run of query heads."""
    many, few = size_of(queries), size_of(keys)
    if many == few:
        trace.couple(queries, keys, "attention")
        return
    if few == 1:
        return
    outer, _ = split(queries, many // few)
    trace.couple(outer, keys, "attention")


@OPERATIONS.handles("cdist", "_cdist_forward", "_euclidean_dist")
def _distance(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    a, b = trace.info(args[0]), trace.info(args[1])
    for info in (a, b):
        freeze(info.dims[-1], Reason(f"a distance sums over the dimension{trace.where()}"))
    lead = broadcast(trace, [], tuple(result.shape[:-2]), "a distance").dims
    trace.put(result, Info([*lead, a.dims[-2], b.dims[-2]]))
