"""Rules of sums over dimensions and of norms, which are made of them."""

from typing import Any

from graftwork.surgery.streams._arithmetic import added, multiplied
from graftwork.surgery.streams._powers import constant, plus
from graftwork.surgery.streams._reading import Reading, halved
from graftwork.surgery.streams._rules import put_all, rule, unknown
from graftwork.surgery.streams._tape import Node, Ref
from graftwork.surgery.streams._values import Kind, Value


@rule("mean", "sum", "var", "var_mean", "amax", "amin", "linalg_vector_norm", "any", "all", "max", "min")
def _reduced(reading: Reading, node: Node) -> None:
    ref = node.inputs[0]
    value, along = reading.settled(reading.value(ref), Kind.FREE, role=f"under {node.name}"), reading.along(ref)
    over = _over(node.values.get("dim"), len(reading.tape.facts[ref.number].dims))
    linear = node.name in ("mean", "sum")
    if not set(along) & set(over):
        if not linear:
            reading.still(value)
        kept = value.kind in (Kind.NONE, Kind.ZERO, Kind.COPY) or linear
        put_all(reading, node, Value(value.kind if kept else Kind.FREE, value.power))
        return
    if value.kind is Kind.COPY:
        _over_copies(reading, node, value)
        return
    if not reading.whole(ref, set(over) & set(along)):
        raise reading.refuse(f"{node.name} runs over several streams side by side")
    positions = [dim for dim in over if dim not in along and reading.tape.facts[ref.number].shape[dim] > 1]
    _over_channels(reading, node, value, several=bool(positions))


def _over_copies(reading: Reading, node: Node, value: Value) -> None:
    """Means stay, sums become as many times larger as there are copies."""
    more = {"sum": 2.0, "linalg_vector_norm": 1.0}.get(node.name, 0.0)
    if not reading.even(
        node.inputs[0], _over(node.values.get("dim"), len(reading.tape.facts[node.inputs[0].number].dims))
    ):
        raise reading.refuse(f"{node.name} runs over the stream and other channels")
    if node.name in ("var", "var_mean") and not _biased(node):
        raise reading.refuse("a variance divides by the number of channels less one")
    if node.name == "linalg_vector_norm" and node.numbers.get("ord", 2.0) != 2.0:
        raise reading.refuse(f"{node.name} runs over the stream")
    first, *others = node.outputs
    power = halved(value.power, 2.0) if node.name in ("var", "var_mean") else value.power
    reading.put(first, Value(Kind.NONE, plus(power or {}, constant(more))))
    for ref in others:
        reading.put(ref, Value(Kind.NONE, value.power))


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


@rule("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm")
def _norm(reading: Reading, node: Node) -> None:
    ref = node.inputs[0]
    value, along = reading.settled(reading.value(ref)), reading.along(ref)
    last = len(reading.tape.facts[ref.number].dims) - 1
    if not along:
        reading.equal(reading.number("eps"), {}, "one eps serves this norm and those of the stream")
        for other in node.inputs:
            reading.still(reading.value(other))
        put_all(reading, node, Value(Kind.NONE))
        return
    if reading.new is Kind.COPY:
        _normed_copies(reading, node, value)
        return
    if len(node.values["normalized_shape"]) > 1:
        raise reading.refuse("a norm runs over channels and positions together")
    if along != [last]:
        raise reading.refuse("a norm runs over other dimensions than the stream's channels")
    if not reading.whole(ref, [last]):
        raise reading.refuse("a norm runs over several streams side by side")
    needed = Kind.ZERO if "rms" in node.name else Kind.MEAN
    if value.kind is not needed:
        what = "the root mean square" if needed is Kind.ZERO else "mean and variance"
        why = f", as {value.why}" if value.why and value.kind is Kind.FREE else ""
        if value.kind is Kind.ZERO and reading.new is Kind.MEAN:
            why = (
                ", as another norm has made them (post-norm, or a norm of embeddings): it weighs each channel alone, "
                "and no gain makes the mean of all"
            )
        raise reading.refuse(f"a norm by {what} meets channels whose new ones can't hold {needed.value}{why}")
    epsilon = reading.number("eps")
    if node.numbers.get("eps") != 0.0:
        square = plus(halved(value.power, 2.0) or {}, constant(-2.0))
        reading.equal(square, epsilon, "a norm's eps does not follow its width")
    _with_gain(reading, node, Value(Kind.ZERO, constant(1.0)))


def _normed_copies(reading: Reading, node: Node, value: Value) -> None:
    """Any norm over all of some channels, each of which is there as often, finds the same mean and variance."""
    ref = node.inputs[0]
    dims = len(reading.tape.facts[ref.number].dims)
    count = len(node.values["normalized_shape"]) if "normalized_shape" in node.values else dims - 1
    if value.kind is not Kind.COPY or not reading.even(ref, range(dims - count, dims)):
        raise reading.refuse("a norm runs over the stream and other channels")
    if node.numbers.get("eps") != 0.0:
        reading.equal(halved(value.power, 2.0), reading.number("eps"), "a norm's eps does not follow its width")
    _with_gain(reading, node, Value(Kind.COPY))


def _with_gain(reading: Reading, node: Node, normed: Value) -> None:
    """What a norm has made, times its gain, and its bias."""
    if isinstance(weight := node.values.get("weight"), Ref):
        normed = multiplied(reading, normed, reading.value(weight))
    if isinstance(bias := node.values.get("bias"), Ref):
        normed = added(reading, normed, reading.value(bias))
    reading.put(node.outputs[0], normed)
    for other in node.outputs[1:]:
        reading.put(other, Value(Kind.NONE, None))


@rule("native_group_norm", "group_norm")
def _group_norm(reading: Reading, node: Node) -> None:
    ref = node.inputs[0]
    if reading.along(ref):
        if reading.new is not Kind.COPY:
            raise reading.refuse("a group norm runs over channels and positions together")
        if node.values.get("group", node.values.get("num_groups")) != 1:
            raise reading.refuse("a norm runs over groups of the stream's channels")
        _normed_copies(reading, node, reading.settled(reading.value(ref)))
        return
    unknown(reading, node)


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "batch_norm",
      "cudnn_batch_norm")  # fmt: skip
def _batch_norm(reading: Reading, node: Node) -> None:
    if reading.along(node.inputs[0]):
        raise reading.refuse("the stream is normed by statistics of the batch, channel by channel: widen its sites")
    unknown(reading, node)
