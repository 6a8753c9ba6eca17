"""What every operation makes of the new channels of a stream."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from graftwork.surgery.streams._powers import constant, plus
from graftwork.surgery._space import Var
from graftwork.surgery.streams._reading import PowerOf, Reading, Rule, halved, product, tensors
from graftwork.surgery.streams._tape import Node, Ref, Tape
from graftwork.surgery.streams._values import Fill, Kind, Value, Writer

RULES: dict[str, Rule] = {}
"""Name of an operation → its rule; ``"unknown"`` for all others."""

def read(tape: Tape, streams: set[Var], new: Kind, numbers: PowerOf | None) -> Reading:
    """Return the reading of a run with zeros or means in the new channels.

    Args:
        tape: The run.
        streams: The volumes that grow.
        new: What new channels of the stream hold.
        numbers: As in `Reading`.

    Raises:
        Refusal: The function can't be kept like that.
    """
    reading = Reading(tape, streams, new, numbers)
    reading.run(RULES)
    return reading


_NOTHING = Value(Kind.ZERO, None)  # zero everywhere: neither adds nor asks for anything


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations by name."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def put_all(reading: Reading, node: Node, value: Value) -> None:
    """Note that every result becomes the same; those without the stream hold nothing new."""
    for ref in node.outputs:
        fits = reading.along(ref) or value.kind is Kind.NONE
        reading.put(ref, value if fits else Value(Kind.NONE, value.power))


def operand(reading: Reading, node: Node, name: str) -> Value:
    """Return an argument that is a tensor or a number."""
    held = node.values.get(name)
    if isinstance(held, Ref) and name not in node.numbers:
        return reading.value(held)
    if node.numbers.get(name) == 0.0:
        return _NOTHING
    return Value(Kind.NONE, reading.number(name))


@rule("unknown")
def _unknown(reading: Reading, node: Node) -> None:
    for ref in node.inputs:
        if reading.along(ref):
            raise reading.refuse(f"{node.name} runs over the stream")
        reading.still(reading.value(ref))
    for name in node.numbers:
        reading.equal(reading.number(name), {})
    put_all(reading, node, Value(Kind.NONE))


# -- what only moves numbers
# --------------------------------------------------------------------------------------------------------------


@rule(
    "alias", "clone", "detach", "_to_copy", "contiguous", "lift_fresh_copy", "lift_fresh", "lift", "to", "view",
    "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand",
    "slice", "narrow", "select", "split", "split_with_sizes", "chunk", "unbind", "native_dropout", "unfold",
    "flip", "roll", "repeat", "im2col",
)  # fmt: skip
def _moved(reading: Reading, node: Node) -> None:
    value = reading.value(node.inputs[0])
    if value.kind is Kind.LEAF and reading.tape.facts[node.outputs[0].number].parameter is None:
        value = replace(value, name=value.name)  # a copy of a parameter still is what is chosen
    put_all(reading, node, value)


@rule("cat", "stack", "where", "maximum", "minimum")
def _joined(reading: Reading, node: Node) -> None:
    condition = node.values.get("condition")
    if isinstance(condition, Ref) and reading.along(condition):
        raise reading.refuse("a choice is made channel by channel")
    names = [name for name in ("self", "other") if name in node.values]
    values = [operand(reading, node, name) for name in names] or [reading.value(r) for r in node.inputs]
    put_all(reading, node, _common(reading, [v for v in values if v is not _NOTHING]))


def _common(reading: Reading, values: Iterable[Value]) -> Value:
    """What a tensor becomes that is in each place one of several."""
    found: Value | None = None
    for value in [reading.settled(value) for value in values]:
        if found is None or found.power is None:
            found = value
        elif value.power is not None:
            reading.equal(found.power, value.power)
            found = Value(_blended(found.kind, value.kind), found.power)
    return found or _NOTHING


def _blended(left: Kind, right: Kind) -> Kind:
    if left is right:
        return left
    return Kind.MEAN if {left, right} == {Kind.MEAN, Kind.NONE} else Kind.FREE


@rule("masked_fill", "masked_fill_")
def _masked(reading: Reading, node: Node) -> None:
    value, filling = reading.settled(operand(reading, node, "self")), operand(reading, node, "value")
    if filling is not _NOTHING:
        reading.still(value)
        value = Value(_blended(value.kind, Kind.NONE), value.power)
    mask = node.values["mask"]
    if reading.along(mask) and value.kind is Kind.MEAN:
        value = Value(Kind.FREE, value.power)
    put_all(reading, node, value)


@rule("index", "_unsafe_index", "index_select", "gather", "take_along_dim")
def _looked_up(reading: Reading, node: Node) -> None:
    put_all(reading, node, replace(reading.settled(reading.value(node.inputs[0])), root=-1))


@rule("embedding")
def _embedding(reading: Reading, node: Node) -> None:
    put_all(reading, node, reading.settled(reading.value(node.values["weight"]), role="looked up for the stream"))


@rule("index_put", "index_put_", "index_add", "index_add_", "index_copy", "index_copy_", "scatter", "scatter_",
      "scatter_add", "scatter_add_", "copy_", "copy")  # fmt: skip
def _written(reading: Reading, node: Node) -> None:
    target = reading.value(node.inputs[0])
    sources = [node.values.get(name) for name in ("source", "src", "values")]
    values = [reading.value(ref) for ref in tensors(s for s in sources if s is not None)]
    whole = node.name.startswith("copy")
    put_all(reading, node, _common(reading, values if whole else [target, *values]))


@rule("zeros", "zeros_like", "new_zeros", "zero_", "zero", "empty", "empty_like", "new_empty", "empty_strided",
      "new_empty_strided")  # fmt: skip
def _zeros(reading: Reading, node: Node) -> None:
    for ref in node.outputs:
        reading.put(ref, _NOTHING if reading.along(ref) else Value(Kind.NONE, None))


@rule("ones", "ones_like", "new_ones", "full", "full_like", "new_full", "fill_", "fill")
def _constants(reading: Reading, node: Node) -> None:
    kind = Kind.MEAN if reading.new is Kind.MEAN else Kind.FREE
    for ref in node.outputs:
        reading.put(ref, Value(kind if reading.along(ref) else Kind.NONE))


# -- arithmetic
# ----------------------------------------------------------------------------------------------------------------


@rule("add", "add_", "sub", "sub_")
def _sum(reading: Reading, node: Node) -> None:
    left, right = operand(reading, node, "self"), operand(reading, node, "other")
    reading.equal(reading.number("alpha"), {})
    less = node.name.startswith("sub")
    if left.kind is Kind.LEAF and right.kind is Kind.NONE and "other" in node.numbers:
        reading.still(right)
        offset = node.numbers["other"] * (-1 if less else 1)
        put_all(reading, node, replace(left, offset=left.offset + offset, root=-1))
        return
    put_all(reading, node, added(reading, left, right, less=less))


def added(reading: Reading, left: Value, right: Value, *, less: bool = False) -> Value:
    """Return what a sum becomes."""
    kinds = [v.kind for v in (left, right) if v.kind in (Kind.ZERO, Kind.MEAN, Kind.FREE) and v.power is not None]
    left, right = (reading.settled(value, kinds[0] if kinds else None) for value in (left, right))
    if left.power is None or right.power is None:
        kept = right if left.power is None else left
        other = left if left.power is None else right
        return replace(kept, kind=other.kind if kept.kind is Kind.NONE else kept.kind, root=-1)
    reading.equal(left.power, right.power)
    if less and left.kind is Kind.MEAN and right.mean_of == left.root >= 0:
        return Value(Kind.ZERO, left.power)
    kind = left.kind if left.kind is right.kind else _blended(left.kind, right.kind)
    why = left.why or right.why
    if {left.kind, right.kind} == {Kind.ZERO, Kind.MEAN}:
        why = "what a norm has made is added to the stream (post-norm, or a norm at the end of a branch)"
    return Value(kind, left.power, why=why)


@rule("mul", "mul_", "multiply")
def _product(reading: Reading, node: Node) -> None:
    left, right = operand(reading, node, "self"), operand(reading, node, "other")
    if left.kind is Kind.LEAF and right.kind is not Kind.LEAF:
        left, right = right, left
    put_all(reading, node, replace(multiplied(reading, left, right), root=-1))


def multiplied(reading: Reading, left: Value, right: Value) -> Value:
    """Return what a product becomes; of a parameter and another tensor, the parameter is the second."""
    power = product(left.power, right.power)
    if right.kind is Kind.LEAF:
        if left.kind is Kind.NONE:
            return replace(reading.settled(right), power=power)
        if left.kind is Kind.LEAF:
            raise reading.refuse("two parameters of the stream are multiplied")
        reading.gain(right)
        if left.kind is Kind.MEAN:
            return _scaled(reading, left, right, power)
        return Value(left.kind, power)
    kinds = {left.kind, right.kind}
    if Kind.ZERO in kinds:
        return Value(Kind.ZERO, power)
    if Kind.NONE in kinds:
        other = right if left.kind is Kind.NONE else left
        return Value(other.kind, power, writer=other.writer)
    return Value(Kind.FREE, power)


def _scaled(reading: Reading, left: Value, gain: Value, power: Any) -> Value:
    """A branch times a gain of its own for every channel: the average over products."""
    if left.writer is None or gain.offset:
        return Value(Kind.FREE, power)
    name, _ = left.writer.weight
    for key in [left.writer.weight, *([(left.writer.bias, 0)] if left.writer.bias else [])]:
        if reading.roles.weighted.setdefault(key, gain.name) != gain.name:
            raise reading.refuse(f"{name!r} is scaled by two gains")
    reading.roles.scaling.add(gain.name)
    return Value(Kind.MEAN, power)


@rule("div", "div_", "true_divide")
def _quotient(reading: Reading, node: Node) -> None:
    left, right = operand(reading, node, "self"), operand(reading, node, "other")
    left = reading.settled(left)
    if right.kind is Kind.LEAF:
        reading.gain(right)
        right = Value(Kind.FREE, right.power)
    power = None if left.power is None else plus(left.power, minus=right.power or {})
    if right.kind is Kind.NONE:
        put_all(reading, node, Value(left.kind, power, writer=left.writer))
    else:
        put_all(reading, node, Value(Kind.ZERO if left.kind is Kind.ZERO else Kind.FREE, power))


_FACTORS = {"sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0, "square": 2.0, "neg": 1.0, "abs": 1.0, "relu": 1.0,
            "relu_": 1.0, "neg_": 1.0, "leaky_relu": 1.0}  # fmt: skip
_KEEP_ZERO = {
    "sqrt", "square", "neg", "neg_", "abs", "relu", "relu_", "leaky_relu", "gelu", "silu", "silu_", "tanh", "tanh_",
    "sin", "erf", "elu", "celu", "selu", "hardswish", "hardswish_", "mish", "mish_", "sign", "hardtanh", "hardtanh_",
}  # fmt: skip


@rule("pow")
def _power(reading: Reading, node: Node) -> None:
    if "exponent" not in node.numbers or "self" in node.numbers:
        _pointwise(reading, node)
        return
    exponent = node.numbers["exponent"]
    reading.equal(reading.number("exponent"), {})
    value = reading.settled(operand(reading, node, "self"), Kind.FREE, role="raised to a power")
    kept = value.kind if value.kind is Kind.NONE or (value.kind is Kind.ZERO and exponent > 0) else Kind.FREE
    put_all(reading, node, Value(kept, halved(value.power, exponent)))


@rule(*_FACTORS)
def _scaling(reading: Reading, node: Node) -> None:
    value = reading.settled(reading.value(node.inputs[0]), Kind.FREE, role=f"under {node.name}")
    kept = value.kind is Kind.NONE or (value.kind is Kind.ZERO and node.name in _KEEP_ZERO)
    kept = kept or (value.kind is Kind.MEAN and node.name.startswith("neg"))
    why = value.why or f"{node.name} acts on the stream"
    put_all(reading, node, Value(value.kind if kept else Kind.FREE, halved(value.power, _FACTORS[node.name]), why=why))


@rule(
    "gelu", "silu", "silu_", "tanh", "tanh_", "sin", "cos", "erf", "elu", "celu", "selu", "hardswish", "hardswish_",
    "mish", "mish_", "sign", "hardtanh", "hardtanh_", "sigmoid", "sigmoid_", "exp", "log", "softplus", "hardsigmoid",
    "clamp", "clamp_min", "clamp_max", "log_sigmoid_forward", "isnan", "isinf", "isfinite", "eq", "ne", "lt", "gt",
    "le", "ge", "logical_not", "logical_and", "logical_or", "bitwise_and", "bitwise_or", "bitwise_not", "exp2",
    "expm1", "log1p", "round", "floor", "ceil", "nan_to_num",
)  # fmt: skip
def _pointwise(reading: Reading, node: Node) -> None:
    """Anything else that acts on each number alone: what goes in must not be scaled."""
    kept, held = node.name in _KEEP_ZERO, False
    for ref in node.inputs:
        value = reading.settled(reading.value(ref), Kind.FREE, role=f"under {node.name}")
        reading.still(value)
        held = held or value.kind is not Kind.NONE
        kept = kept and value.kind is Kind.ZERO
    for name in node.numbers:
        reading.equal(reading.number(name), {})
    kind = (Kind.ZERO if kept else Kind.FREE) if held else Kind.NONE
    put_all(reading, node, Value(kind, why=f"{node.name} acts on the stream"))


# -- sums over dimensions
# ------------------------------------------------------------------------------------------------------------------


@rule("mean", "sum", "var", "var_mean", "amax", "amin", "linalg_vector_norm", "any", "all", "max", "min")
def _reduced(reading: Reading, node: Node) -> None:
    ref = node.inputs[0]
    value, along = reading.settled(reading.value(ref), Kind.FREE, role=f"under {node.name}"), reading.along(ref)
    over = _over(node.values.get("dim"), len(reading.tape.facts[ref.number].dims))
    linear = node.name in ("mean", "sum")
    if not set(along) & set(over):
        if not linear:
            reading.still(value)
        kept = value.kind in (Kind.NONE, Kind.ZERO) or linear
        put_all(reading, node, Value(value.kind if kept else Kind.FREE, value.power))
        return
    if not all(reading.plain(ref, dim) for dim in along):
        raise reading.refuse(f"{node.name} runs over several streams side by side")
    positions = [dim for dim in over if dim not in along and reading.tape.facts[ref.number].shape[dim] > 1]
    _over_channels(reading, node, value, several=bool(positions))


def _over(dims: Any, count: int) -> list[int]:
    if dims is None or dims == []:
        return list(range(count))
    return [dim % count for dim in ([dims] if isinstance(dims, int) else dims)]


def _over_channels(reading: Reading, node: Node, value: Value, *, several: bool) -> None:
    """A sum over the stream itself: part of a norm that is written out."""
    name, kind = node.name, value.kind
    square = plus(halved(value.power, 2.0) or {}, constant(-2.0))
    if name == "mean" and kind is Kind.ZERO:
        put_all(reading, node, Value(Kind.NONE, plus(value.power or {}, constant(-2.0))))
    elif name == "mean" and kind is Kind.MEAN:
        put_all(reading, node, Value(Kind.NONE, value.power, mean_of=value.root))
    elif name in ("sum", "linalg_vector_norm") and kind is Kind.ZERO:
        if node.numbers.get("ord", 2.0) != 2.0:
            raise reading.refuse(f"{name} runs over the stream")
        put_all(reading, node, Value(Kind.NONE, value.power))
    elif name in ("var", "var_mean") and kind is Kind.MEAN and not several and _biased(node):
        first, *others = node.outputs
        reading.put(first, Value(Kind.NONE, square))
        for other in others:
            reading.put(other, Value(Kind.NONE, value.power, mean_of=value.root))
    else:
        raise reading.refuse(f"{name} runs over the stream, whose new channels hold {kind.value}")


def _biased(node: Node) -> bool:
    """Whether a variance divides by the number of channels and not by one less."""
    correction = node.values.get("correction", 1)
    return node.values.get("unbiased", correction != 0) is False or correction == 0


# -- norms
# -----------------------------------------------------------------------------------------------------------------


@rule("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm")
def _norm(reading: Reading, node: Node) -> None:
    ref = node.inputs[0]
    value, along = reading.settled(reading.value(ref)), reading.along(ref)
    last = len(reading.tape.facts[ref.number].dims) - 1
    if not along:
        for other in node.inputs:
            reading.still(reading.value(other))
        put_all(reading, node, Value(Kind.NONE))
        return
    if along != [last]:
        raise reading.refuse("a norm runs over other dimensions than the stream's channels")
    if len(node.values["normalized_shape"]) > 1:
        raise reading.refuse("a norm runs over channels and positions together")
    if not reading.plain(ref, last):
        raise reading.refuse("a norm runs over several streams side by side")
    needed = Kind.ZERO if "rms" in node.name else Kind.MEAN
    if value.kind is not needed:
        what = "the root mean square" if needed is Kind.ZERO else "mean and variance"
        why = f", as {value.why}" if value.why and value.kind is Kind.FREE else ""
        raise reading.refuse(f"a norm by {what} meets channels whose new ones can't hold {needed.value}{why}")
    epsilon = reading.number("eps")
    if node.numbers.get("eps") != 0.0:
        square = plus(halved(value.power, 2.0) or {}, constant(-2.0))
        reading.equal(square, epsilon, "a norm's eps does not follow its width")
    normed: Value = Value(Kind.ZERO, constant(1.0))
    if isinstance(weight := node.values.get("weight"), Ref):
        normed = multiplied(reading, normed, reading.value(weight))
    if isinstance(bias := node.values.get("bias"), Ref):
        normed = added(reading, normed, reading.value(bias))
    reading.put(node.outputs[0], normed)
    for other in node.outputs[1:]:
        reading.put(other, Value(Kind.NONE, None))


@rule("native_group_norm", "group_norm")
def _group_norm(reading: Reading, node: Node) -> None:
    if reading.along(node.inputs[0]):
        raise reading.refuse("a group norm runs over channels and positions together")
    _unknown(reading, node)


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "batch_norm",
      "cudnn_batch_norm")  # fmt: skip
def _batch_norm(reading: Reading, node: Node) -> None:
    if reading.along(node.inputs[0]):
        raise reading.refuse("the stream is normed by statistics of the batch, channel by channel: widen its sites")
    _unknown(reading, node)


# -- sums with weights
# ---------------------------------------------------------------------------------------------------------------------


@rule("mm", "bmm", "addmm", "baddbmm", "linear")
def _matmul(reading: Reading, node: Node) -> None:
    names = {"mm": ("self", "mat2"), "bmm": ("self", "mat2"), "addmm": ("mat1", "mat2"),
             "baddbmm": ("batch1", "batch2"), "linear": ("input", "weight")}  # fmt: skip
    left, right = (node.values[name] for name in names[node.name])
    inner = len(reading.tape.facts[left.number].dims) - 1
    other = 1 if node.name == "linear" else inner - 1
    bias = node.values.get("bias" if node.name == "linear" else "self") if node.name not in ("mm", "bmm") else None
    made = contracted(reading, (left, inner), (right, other), node.outputs[0])
    put_all(reading, node, _biased_sum(reading, made, bias))


@rule("convolution", "_convolution", "mkldnn_convolution")
def _convolution(reading: Reading, node: Node) -> None:
    x, weight, groups = node.values["input"], node.values["weight"], node.values["groups"]
    transposed = bool(node.values.get("transposed", False))
    if groups == 1:
        made = contracted(reading, (x, 1), (weight, 0 if transposed else 1), node.outputs[0])
    else:
        made = _grouped(reading, x, weight, node.outputs[0])
    put_all(reading, node, _biased_sum(reading, made, node.values.get("bias")))


def _biased_sum(reading: Reading, made: Value, bias: Any) -> Value:
    if not isinstance(bias, Ref):
        return made
    value = reading.value(bias)
    result = added(reading, made, value)
    if made.writer is None or value.kind is not Kind.LEAF:
        return result
    return replace(result, writer=Writer(made.writer.weight, value.name))


def contracted(reading: Reading, left: tuple[Ref, int], right: tuple[Ref, int], out: Ref) -> Value:
    """Return what a sum over a dimension of two tensors becomes."""
    sides = (left, right)
    values = [reading.value(ref) for ref, _ in sides]
    summed = any(dim in reading.along(ref) for ref, dim in sides)
    power = product(values[0].power, values[1].power)
    if any(value.offset for value in values):
        raise reading.refuse("a weight of the stream is computed from parameters")
    if summed:
        _read(reading, sides, values)
    writers = [_made(reading, ref, dim) for ref, dim in sides]
    writer = next((writer for writer in writers if writer is not None), None)
    if not reading.along(out):
        if summed:
            reading.equal(power, {}, "what is read from the stream would change")
        return Value(Kind.NONE, power)
    if writer is not None:
        if not all(reading.plain(out, dim) for dim in reading.along(out)) and reading.new is Kind.MEAN:
            raise reading.refuse(f"{writer.weight[0]!r} makes channels of the stream among others")
        fill = Fill.MEAN if reading.new is Kind.MEAN else Fill.ZERO
        reading.fill(*writer.weight, fill, why="added to the stream")
        return Value(reading.new, power, writer=writer)
    kept = next(value.kind for (ref, dim), value in zip(sides, values, strict=True) if set(reading.along(ref)) - {dim})
    return Value(kept, power)


def _read(reading: Reading, sides: tuple[tuple[Ref, int], ...], values: list[Value]) -> None:
    """A sum over the stream: a weight's new columns are free where they hear zero, else zero."""
    for (ref, dim), other in zip(sides, reversed(values), strict=True):
        fact = reading.tape.facts[ref.number]
        if fact.parameter is None:
            continue
        for source in fact.sources[dim]:
            free = other.kind is Kind.ZERO
            reading.fill(fact.parameter, source, Fill.FREE if free else Fill.ZERO, why="reads the stream")
        return
    if not any(value.kind is Kind.ZERO for value in values):
        raise reading.refuse("two tensors that are computed are multiplied and summed over the stream")


def _made(reading: Reading, ref: Ref, dim: int) -> Writer | None:
    """The weight and its dimension that make channels of the stream."""
    fact = reading.tape.facts[ref.number]
    for free in reading.along(ref):
        if free != dim and fact.parameter is not None:
            (source,) = fact.sources[free]
            return Writer((fact.parameter, source))
    return None


def _grouped(reading: Reading, x: Ref, weight: Ref, out: Ref) -> Value:
    """A convolution in groups, most often one for each channel."""
    value, own = reading.value(x), reading.value(weight)
    power = product(value.power, own.power)
    if not reading.along(x) and not reading.along(out):
        return Value(Kind.NONE, power)
    if not reading.along(x) and reading.new is Kind.MEAN:
        raise reading.refuse("a convolution in groups writes to the stream")
    own = reading.settled(own, Kind.ZERO if not reading.along(x) else Kind.FREE, role="a convolution in groups")
    if not reading.along(x):
        return Value(Kind.ZERO, power)
    if not reading.along(out):
        raise reading.refuse("a convolution in groups reads the stream")
    why = "a convolution weighs each channel by itself"
    return Value(Kind.ZERO if value.kind is Kind.ZERO else Kind.FREE, power, why=why)


@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
      "_scaled_dot_product_efficient_attention", "_scaled_dot_product_attention_math",
      "scaled_dot_product_attention", "_softmax", "_safe_softmax", "_log_softmax")  # fmt: skip
def _mixed(reading: Reading, node: Node) -> None:
    _unknown(reading, node)
