"""Rules of sums with weights: linear maps, convolutions, matrix products."""

from dataclasses import replace
from typing import Any

from graftwork.surgery.streams._arithmetic import added
from graftwork.surgery.streams._powers import Power, constant, plus
from graftwork.surgery.streams._reading import Reading, product
from graftwork.surgery.streams._rules import put_all, rule
from graftwork.surgery.streams._tape import Node, Ref
from graftwork.surgery.streams._values import Fill, Kind, Rows, Value, Writer


@rule("mm", "bmm", "addmm", "baddbmm", "linear")
def _matmul(reading: Reading, node: Node) -> None:
    names = {"mm": ("self", "mat2"), "bmm": ("self", "mat2"), "addmm": ("mat1", "mat2"),
             "baddbmm": ("batch1", "batch2"), "linear": ("input", "weight")}  # fmt: skip
    left, right = (node.values[name] for name in names[node.name])
    inner = len(reading.tape.facts[left.number].dims) - 1
    other = 1 if node.name == "linear" else inner - 1
    bias = node.values.get("bias" if node.name == "linear" else "self") if node.name not in ("mm", "bmm") else None
    made = contracted(reading, (left, inner), (right, other), node.outputs[0])
    made = replace(made, power=product(made.power, reading.number("alpha")))
    reading.equal(reading.number("beta"), {})
    put_all(reading, node, _biased_sum(reading, made, bias))


@rule("_grouped_mm")
def _grouped_matmul(reading: Reading, node: Node) -> None:
    left, right = node.values["self"], node.values["mat2"]
    put_all(reading, node, contracted(reading, (left, 1), (right, 1), node.outputs[0]))


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
    kind: Kind | None = None if made.kind is Kind.NONE else made.kind
    if made.rows is not None and made.rows not in reading.roles.free:
        kind = reading.new  # where some rows are free, their biases start as the others'
    settled = reading.settled(value, kind)
    result = added(reading, replace(made, writer=None), replace(settled, writer=None))
    if made.writer is None or value.kind is not Kind.LEAF:
        return result
    return replace(result, writer=Writer(made.writer.weight, value.name), rows=made.rows)


def contracted(reading: Reading, left: tuple[Ref, int], right: tuple[Ref, int], out: Ref) -> Value:
    """Return what a sum over a dimension of two tensors becomes."""
    sides = (left, right)
    values = [reading.value(ref) for ref, _ in sides]
    summed = any(dim in reading.along(ref) for ref, dim in sides)
    if summed:  # a parameter that is read as it is, such as a learned query, starts where its reader is free
        computed = [reading.tape.facts[ref.number].parameter is None for ref, _ in sides]
        values = [
            reading.settled(value, Kind.ZERO, role="read as the stream is") if own else value
            for value, own in zip(values, computed, strict=True)
        ]
    power = product(values[0].power, values[1].power)
    if any(value.offset for value in values):
        raise reading.refuse("a weight of the stream is computed from parameters")
    if summed:
        _read(reading, sides, values)
        power = _summed_copies(reading, sides, power)
    rows = next((rows for ref, dim in sides if (rows := _made(reading, ref, dim)) is not None), None)
    writer = None if rows is None else Writer((rows.name, rows.dim))
    if not reading.along(out):
        weighed = any(reading.tape.facts[ref.number].parameter is not None for ref, _ in sides)
        if (
            summed and weighed and not reading.later
        ):  # the scores of attention may be divided by a root of the width yet
            reading.equal(power, {}, "what is read from the stream would change")
        return Value(Kind.NONE, power)
    passing = [value for (ref, dim), value in zip(sides, values, strict=True) if set(reading.along(ref)) - {dim}]
    free = [value.kind for value in passing]
    if len(free) > 1:
        if set(free) == {Kind.ZERO}:
            reading.roles.twice.append((passing[0].rows, passing[1].rows))
        return _by_channel(reading, writer, free, power)
    if writer is not None and rows is not None:
        if not all(reading.plain(out, dim) for dim in reading.along(out)) and reading.new is Kind.MEAN:
            raise reading.refuse(f"{writer.weight[0]!r} makes channels of the stream among others")
        made = reading.made_by(rows)
        whole = rows in reading.roles.free
        fill = {Kind.MEAN: Fill.MEAN, Kind.COPY: Fill.COPY}.get(reading.new, Fill.ZERO)
        reading.fill(*writer.weight, Fill.FREE if whole else fill, why="added to the stream")
        return replace(made, power=power, writer=writer)
    return Value(free[0], power, why=passing[0].why)


def _by_channel(reading: Reading, writer: Writer | None, kinds: list[Kind], power: Power | None) -> Value:
    """Products of two tensors that both hold the stream, in one dimension or in two."""
    if writer is not None:
        raise reading.refuse(f"{writer.weight[0]!r} is multiplied with the stream channel by channel")
    if Kind.ZERO in kinds:
        return Value(Kind.ZERO, power)
    return Value(Kind.COPY if set(kinds) == {Kind.COPY} else Kind.FREE, power)


def _summed_copies(reading: Reading, sides: tuple[tuple[Ref, int], ...], power: Power | None) -> Power | None:
    """A sum over copies is as many times larger as there are."""
    if reading.new is not Kind.COPY or power is None:
        return power
    if not all(reading.even(ref, [dim]) for ref, dim in sides):
        raise reading.refuse("a sum runs over the stream and other channels")
    return plus(power, constant(2.0))


def _read(reading: Reading, sides: tuple[tuple[Ref, int], ...], values: list[Value]) -> None:
    """A sum over the stream: a weight's new columns are free where they hear zero, else zero."""
    for (ref, dim), other in zip(sides, reversed(values), strict=True):
        fact = reading.tape.facts[ref.number]
        if fact.parameter is None:
            continue
        for source in fact.sources[dim]:
            free = other.kind in (Kind.ZERO, Kind.COPY)
            reading.fill(fact.parameter, source, Fill.FREE if free else Fill.ZERO, why="reads the stream")
        return
    if not any(value.kind in (Kind.ZERO, Kind.COPY) for value in values):
        raise reading.refuse("two tensors that are computed are multiplied and summed over the stream")


def _made(reading: Reading, ref: Ref, dim: int) -> Rows | None:
    """The rows of a weight that make channels of the stream."""
    fact = reading.tape.facts[ref.number]
    for free in reading.along(ref):
        if free != dim and fact.parameter is not None:
            return Rows(fact.parameter, reading.source(ref, free), 0, fact.shape[free])
    return None


def _grouped(reading: Reading, x: Ref, weight: Ref, out: Ref) -> Value:
    """A convolution in groups, most often one for each channel."""
    value, own = reading.value(x), reading.value(weight)
    power = product(value.power, own.power)
    if not reading.along(x) and not reading.along(out):
        return Value(Kind.NONE, power)
    if not reading.along(x) and reading.new is not Kind.ZERO:
        raise reading.refuse("a convolution in groups writes to the stream")
    own = reading.settled(own, Kind.ZERO if not reading.along(x) else Kind.FREE, role="a convolution in groups")
    if not reading.along(x):
        return Value(Kind.ZERO, power)
    if not reading.along(out):
        raise reading.refuse("a convolution in groups reads the stream")
    why = "a convolution weighs each channel by itself"
    return Value(value.kind if value.kind in (Kind.ZERO, Kind.COPY) else Kind.FREE, power, why=why)


@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
      "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
      "_scaled_dot_product_attention_math", "scaled_dot_product_attention")  # fmt: skip
def _attention(reading: Reading, node: Node) -> None:
    """Heads that stand for channels of a stream, as where a norm runs over all of them."""
    refs = [node.values[name] for name in ("query", "key", "value")]
    for ref in refs:
        last = len(reading.tape.facts[ref.number].dims) - 1
        if {last - 1, last} & set(reading.along(ref)):
            raise reading.refuse("attention sums over the stream")
    query, key, value = (reading.settled(reading.value(ref), Kind.FREE, role="in attention") for ref in refs)
    scores = product(product(query.power, key.power), reading.number("scale"))
    reading.equal(scores, {}, "attention meets what changes with the width")
    if query.kind is key.kind is Kind.ZERO:
        reading.roles.twice.append((query.rows, key.rows))
    kinds = {one.kind for one in (query, key, value)} - {Kind.NONE}
    kind = Kind.COPY if kinds == {Kind.COPY} else Kind.ZERO if value.kind is Kind.ZERO else Kind.FREE
    reading.put(node.outputs[0], Value(kind if kinds else Kind.NONE, value.power, why="heads attend by themselves"))
    for ref in node.outputs[1:]:
        reading.put(ref, Value(Kind.FREE if reading.along(ref) else Kind.NONE))
