"""Rules of operations that act on each number alone."""

from dataclasses import replace
from typing import Any

from graftwork.surgery.streams._powers import plus
from graftwork.surgery.streams._reading import Reading, halved, product
from graftwork.surgery.streams._rules import blended, operand, put_all, rule
from graftwork.surgery.streams._tape import Node
from graftwork.surgery.streams._values import Kind, Value


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
    reading.roles.plain |= {v.writer.weight for v in (left, right) if v.writer is not None and v.kind is Kind.MEAN}
    if left.power is None or right.power is None:
        kept = right if left.power is None else left
        return replace(kept, kind=reading.spread if kept.kind is Kind.NONE else kept.kind, root=-1)
    reading.equal(left.power, right.power)
    if less and left.kind is Kind.MEAN and right.mean_of == left.root >= 0:
        return Value(Kind.ZERO, left.power)
    kind = left.kind if left.kind is right.kind else blended(left.kind, right.kind)
    why = left.why or right.why
    if {left.kind, right.kind} == {Kind.ZERO, Kind.MEAN}:
        why = "what a norm has made is added to the stream (post-norm, or a norm at the end of a branch)"
    elif {left.kind, right.kind} == {Kind.ZERO, Kind.NONE}:
        why = "what is added to every channel is added to new ones too"
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
    if kinds == {Kind.ZERO} and power is not None:
        reading.roles.twice.append((left.rows, right.rows))
    if Kind.ZERO in kinds:
        return Value(Kind.ZERO, power)
    if Kind.NONE in kinds:
        other = right if left.kind is Kind.NONE else left
        return Value(other.kind, power, writer=other.writer, why=other.why)
    kind = Kind.COPY if kinds == {Kind.COPY} else Kind.FREE
    return Value(kind, power, why=left.why or right.why or "channels of the stream are multiplied")


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
        right = Value(Kind.COPY if reading.new is Kind.COPY else Kind.FREE, right.power)
    power = None if left.power is None else plus(left.power, minus=right.power or {})
    if right.kind is Kind.NONE:
        put_all(reading, node, Value(left.kind, power, writer=left.writer))
    else:
        kind = Kind.COPY if right.kind is Kind.COPY and left.kind in (Kind.COPY, Kind.NONE) else Kind.FREE
        put_all(reading, node, Value(Kind.ZERO if left.kind is Kind.ZERO else kind, power))


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
    keeps = value.kind in (Kind.NONE, Kind.COPY) or (value.kind is Kind.ZERO and exponent > 0)
    put_all(reading, node, Value(value.kind if keeps else Kind.FREE, halved(value.power, exponent)))


@rule(*_FACTORS)
def _scaling(reading: Reading, node: Node) -> None:
    value = reading.settled(reading.value(node.inputs[0]), Kind.FREE, role=f"under {node.name}")
    kept = value.kind in (Kind.NONE, Kind.COPY) or (value.kind is Kind.ZERO and node.name in _KEEP_ZERO)
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
    kind = (Kind.ZERO if kept else reading.spread if reading.new is Kind.COPY else Kind.FREE) if held else Kind.NONE
    rows = reading.value(node.inputs[0]).rows if len(node.inputs) == 1 else None
    put_all(reading, node, Value(kind, why=f"{node.name} acts on the stream", rows=rows))
