"""Handlers of operations that act on each channel alone, of norms and reductions, and of new tensors."""

import re
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten

from graftwork.surgery._space import ONE, Expr, Reason, cut, fresh, size_of, split
from graftwork.surgery._trace import Info, Trace
from graftwork.surgery.operations._registry import OPERATIONS, bind, broadcast, dim_list, op_name, wrap

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

# Norms that are written out: new channels shift these by a little, where they would add to a sum.
_MOMENTS = {"mean", "var", "std", "var_mean", "std_mean"}


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]


@OPERATIONS.handles(
    "pointwise", "native_dropout", "masked_fill", "masked_fill_", "where", "lerp", "addcmul",
    "addcdiv", "nan_to_num", "hardtanh", "hardtanh_", "hardswish", "hardswish_", "mish_",
    "bernoulli", "rrelu_with_noise", "rrelu_with_noise_", "rrelu_with_noise_functional", "prelu",
    "_prelu_kernel", "log_sigmoid_forward", "logit",
)  # fmt: skip
def _pointwise(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    outputs = _tensors(result)
    operands = [t for t in _tensors((args, kwargs)) if t.dim() <= outputs[0].dim()]
    inplace = bool(args) and isinstance(args[0], Tensor) and outputs[0] is args[0]
    info = broadcast(trace, operands, tuple(outputs[0].shape), str(func))
    for output in outputs:
        if inplace and output is args[0]:
            continue
        if output.shape == outputs[0].shape:
            trace.put(output, Info(list(info.dims), computed=info.computed))
        else:
            trace.put(output, Info([fresh(n) for n in output.shape]))
    name = op_name(func)
    if re.search(r"relu|gelu|silu|elu|tanh|sigmoid|hardswish|mish|softplus", name):
        trace.activations.append(name)


@OPERATIONS.handles(
    "copy_", "copy", "fill_", "fill", "zero_", "zero", "normal_", "uniform_", "bernoulli_",
    "random_",
)  # fmt: skip
def _fill(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    target = trace.info(args[0])
    for source in _tensors((args[1:], kwargs)):
        info = trace.info(source)
        for back in range(1, source.dim() + 1):
            if back <= len(target.dims) and source.shape[-back] == args[0].shape[-back]:
                trace.use(info, source.dim() - back, consumed=False)
                trace.couple(target.dims[-back], info.dims[-back], "a copy")
    if result is not args[0]:
        trace.put(result, Info(list(target.dims)))


@OPERATIONS.handles(
    "zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty",
    "empty_strided", "new_empty_strided", "scalar_tensor",
)  # fmt: skip
def _uniform_factory(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    trace.put(result, Info([fresh(n) for n in result.shape], computed=False))


@OPERATIONS.handles(
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like",
)  # fmt: skip
def _like(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    trace.put(result, Info(list(trace.info(args[0]).dims)))


@OPERATIONS.handles(
    "rand", "randn", "randint", "randperm", "arange", "linspace", "eye", "lift_fresh",
    "tril_indices", "triu_indices", "logspace", "_efficientzerotensor", "hann_window",
    "multinomial",
)  # fmt: skip
def _positional_factory(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    reason = Reason(f"constants made by {op_name(func)} that differ by index{trace.where()}")
    trace.put(result, Info([fresh(n, reason) for n in result.shape]))


@OPERATIONS.handles(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "_native_batch_norm_legit_functional", "batch_norm", "mkldnn_batch_norm",
    "_batch_norm_with_update", "_batch_norm_no_update", "miopen_batch_norm",
)  # fmt: skip
def _batch_norm(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    x = trace.info(args[0])
    for i, expr in enumerate(x.dims):
        if i != 1:
            trace.freeze(expr, "a dimension that batch normalization averages over")
    for tensor in _tensors((args[1:], kwargs)):
        info = trace.info(tensor)
        if tensor.dim() == 1 and len(x.dims) > 1 and tensor.shape[0] == args[0].shape[1]:
            trace.use(info, 0, consumed=False)
            trace.couple(x.dims[1], info.dims[0], "batch normalization")
    first, *others = _tensors(result)
    trace.put(first, Info(list(x.dims)))
    for other in others:
        same = other.dim() == 1 and other.shape[0] == args[0].shape[1]
        trace.put(other, Info([x.dims[1]] if same else [fresh(n) for n in other.shape]))


@OPERATIONS.handles("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm")
def _layer_norm(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    x = trace.info(args[0])
    values = bind(func, args, kwargs)
    count = len(values["normalized_shape"])
    for expr in x.dims[-count:]:
        trace.freeze(expr, "a norm mixes the channels (LayerNorm or RMSNorm over the dimension)", approximable=True)
    trace.normalized[trace.place] = x.dims[-count:]
    for tensor in _tensors((values.get("weight"), values.get("bias"))):
        info = trace.info(tensor)
        for i in range(count):
            trace.use(info, i, consumed=False)
            trace.couple(x.dims[len(x.dims) - count + i], info.dims[i], "layer normalization")
    first, *others = _tensors(result)
    trace.put(first, Info(list(x.dims)))
    for other in others:
        dims = [*x.dims[:-count], *([ONE] * count)] if other.dim() == len(x.dims) else None
        trace.put(other, Info(dims if dims is not None else [fresh(n) for n in other.shape]))


@OPERATIONS.handles("native_group_norm", "group_norm")
def _group_norm(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    x = trace.info(args[0])
    values = bind(func, args, kwargs)
    groups = int(values["group"] if "group" in values else values["num_groups"])
    group, inside = split(x.dims[1], size_of(x.dims[1]) // groups)
    if size_of(inside) > 1:
        trace.freeze(inside, "a group norm mixes the channels of a group", approximable=True)
    for expr in x.dims[2:]:
        trace.freeze(expr, "a dimension that group normalization averages over")
    for tensor in _tensors((values.get("weight"), values.get("bias"))):
        info = trace.info(tensor)
        trace.use(info, 0, consumed=False)
        trace.couple(x.dims[1], info.dims[0], "group normalization")
    trace.groups[trace.place] = group
    first, *others = _tensors(result)
    trace.put(first, Info(list(x.dims)))
    for other in others:
        trace.put(other, Info([x.dims[0], group] if other.dim() == 2 else [fresh(n) for n in other.shape]))


@OPERATIONS.handles(
    "_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum", "cumprod", "_safe_softmax",
    "logcumsumexp", "cummax", "cummin", "sort",
)  # fmt: skip
def _mixing(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    x = trace.info(args[0])
    values = bind(func, args, kwargs)
    dim = wrap(values["dim"], len(x.dims))
    trace.use(x, dim, consumed=False)
    trace.freeze(x.dims[dim], f"{op_name(func)} mixes the dimension")
    for output in _tensors(result):
        trace.put(output, Info(list(x.dims), computed=x.computed or x.parameter is not None))


@OPERATIONS.handles(
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "prod",
    "any", "all", "logsumexp", "argmax", "argmin", "norm", "linalg_vector_norm", "topk", "nansum",
    "median", "aminmax", "kthvalue", "count_nonzero", "mode",
)  # fmt: skip
def _reduction(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    x = trace.info(args[0])
    values = bind(func, args, kwargs)
    which = dim_list(values.get("dim"), len(x.dims))
    for i in range(len(x.dims)):
        trace.use(x, i, consumed=False)
    name = op_name(func)
    for dim in which:
        trace.freeze(x.dims[dim], f"{name} runs over the dimension", approximable=name in _MOMENTS)
    for output in _tensors(result):
        keep = output.dim() == len(x.dims)
        dims: list[Expr] = []
        for i, expr in enumerate(x.dims):
            if i not in which:
                dims.append(expr)
            elif keep:
                dims.append(fresh(output.shape[i], Reason(f"{name} made the dimension{trace.where()}")))
        trace.put(output, Info(dims, computed=x.computed or x.parameter is not None))


@OPERATIONS.handles(
    "max_pool1d", "max_pool2d", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "adaptive_avg_pool2d",
    "fractional_max_pool2d", "max_pool3d", "adaptive_max_pool1d", "upsample_nearest1d",
    "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d", "max_unpool2d",
    "grid_sampler_2d", "grid_sampler_3d",
)  # fmt: skip
def _spatial(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    found = re.search(r"([123])d", op_name(func))
    spatial = int(found.group(1)) if found else 2
    x = trace.info(args[0])
    for expr in x.dims[-spatial:]:
        trace.freeze(expr, "a dimension that pooling, padding or resampling runs over")
    for tensor in _tensors((args[1:], kwargs)):
        for expr in trace.info(tensor).dims:
            trace.freeze(expr, "an index of pooling or resampling")
    for output in _tensors(result):
        trace.put(output, Info([*x.dims[:-spatial], *(fresh(n) for n in output.shape[-spatial:])]))


@OPERATIONS.handles("_fft_r2c", "_fft_c2r", "_fft_c2c")
def _fourier(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """A Fourier transform mixes the dimensions that it runs over and treats every other index alone."""
    x = trace.info(args[0])
    dims = list(x.dims)
    for i in range(len(dims)):
        trace.use(x, i, consumed=False)
    for dim in dim_list(args[1], len(dims)):
        trace.freeze(dims[dim], "a dimension that a Fourier transform runs over")
        dims[dim] = fresh(result.shape[dim], Reason(f"frequencies or samples of a Fourier transform{trace.where()}"))
    trace.put(result, Info(dims, computed=x.computed or x.parameter is not None))


@OPERATIONS.handles("view_as_real", "view_as_complex")
def _complex_parts(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """The real and imaginary part become the last dimension, or it becomes them."""
    x = trace.info(args[0])
    dims, sources = list(x.dims), list(x.sources)
    if result.dim() > len(dims):
        dims.append(fresh(2, Reason(f"real and imaginary parts{trace.where()}")))
        sources.append(frozenset())
    else:
        trace.freeze(dims.pop(), "real and imaginary parts")
        sources = sources[:-1]
    parameter = x.parameter
    trace.put(result, Info(dims, parameter, sources if parameter is not None else [], x.computed))


@OPERATIONS.handles("glu")
def _glu(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    x = trace.info(args[0])
    dim = wrap(args[1] if len(args) > 1 else -1, len(x.dims))
    value, gate = cut(x.dims[dim], size_of(x.dims[dim]) // 2)
    trace.couple(value, gate, "glu")
    dims = list(x.dims)
    dims[dim] = value
    trace.put(result, Info(dims))


@OPERATIONS.handles("tril", "triu", "tril_", "triu_")
def _triangle(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    x = trace.info(args[0])
    for dim in (-1, -2):
        trace.freeze(x.dims[dim], "a dimension that a triangular mask orders")
    trace.put(result, Info(list(x.dims), computed=x.computed or x.parameter is not None))


@OPERATIONS.handles(
    "_local_scalar_dense", "item", "is_same_size", "sym_size", "_assert_async", "equal", "nonzero",
    "_assert_tensor_metadata", "_assert_scalar",
)  # fmt: skip
def _read(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """Values that leave the tensor world: what Python does with one number is for the check to catch."""
    name = op_name(func)
    for tensor in _tensors((args, kwargs)) if name in {"_local_scalar_dense", "item", "nonzero", "equal"} else []:
        trace.read(tensor)
        if name in {"nonzero", "equal"}:  # how many indices there are, and whether all are equal, hangs on every one
            for expr in trace.info(tensor).dims:
                trace.freeze(expr, f"{name} looks at the whole dimension")
    for output in _tensors(result):
        reason = Reason(f"indices found by {op_name(func)}{trace.where()}")
        trace.put(output, Info([fresh(n, reason) for n in output.shape]))
