"""The register of rules, what they share, and the rules of operations that only move numbers."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from graftwork.surgery.streams._powers import plus
from graftwork.surgery.streams._reading import FOLLOWED, Reading, Rule, tensors
from graftwork.surgery.streams._tape import Node, Ref
from graftwork.surgery.streams._values import Kind, Value

RULES: dict[str, Rule] = {}
"""Name of an operation → its rule; ``"unknown"`` for all others."""

NOTHING = Value(Kind.ZERO, None)
"""What is zero everywhere: it neither adds nor asks for anything."""


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
        return NOTHING
    return Value(Kind.NONE, reading.number(name))


@rule("unknown")
def unknown(reading: Reading, node: Node) -> None:
    """Refuse an operation on the stream that has no rule; others must not meet what changes."""
    for ref in node.inputs:
        if reading.along(ref):
            raise reading.refuse(f"{node.name} runs over the stream")
        reading.still(reading.value(ref))
    for name in node.numbers.keys() & FOLLOWED:
        reading.equal(reading.number(name), {})
    put_all(reading, node, Value(Kind.NONE))


# -- what only moves numbers
# --------------------------------------------------------------------------------------------------------------


@rule(
    "alias", "clone", "detach", "_to_copy", "contiguous", "lift_fresh_copy", "lift_fresh", "lift", "to", "view",
    "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand",
    "select", "unbind", "native_dropout", "unfold",
    "flip", "roll", "repeat", "im2col", "as_strided_",
)  # fmt: skip
def _moved(reading: Reading, node: Node) -> None:
    value = reading.value(node.inputs[0])
    if reading.along(node.inputs[0]) and not any(reading.along(ref) for ref in node.outputs):
        value = replace(value, kind=Kind.FREE, why="one channel of the stream is read by its number")
        for ref in node.outputs:
            reading.put(ref, value)  # harmless where only its shape is used
        return
    if value.kind is Kind.NONE and value.power is not None and any(reading.along(ref) for ref in node.outputs):
        value = Value(reading.spread, value.power, why=f"{node.name} puts one number into every channel")
    put_all(reading, node, value)


@rule("slice", "narrow", "split", "split_with_sizes", "chunk")
def _cut(reading: Reading, node: Node) -> None:
    """Parts of a dimension; of channels that the rows of one weight make, each part has its rows."""
    value, ref = reading.value(node.inputs[0]), node.inputs[0]
    length = reading.tape.facts[ref.number].shape
    dim = int(node.values.get("dim") or 0) % len(length)
    if value.rows is None or value.rows.stop - value.rows.start != length[dim] or reading.along(ref) != [dim]:
        _moved(reading, node)
        return
    start = int(node.values.get("start") or 0)
    start = min(max(start + length[dim] if start < 0 else start, 0), length[dim])
    for out in node.outputs:
        stop = start + reading.tape.facts[out.number].shape[dim]
        part = value.rows.part(start, stop)
        start = stop
        if reading.along(out):
            reading.put(out, replace(reading.made_by(part), power=value.power) if value.kind is Kind.FREE else
                        replace(value, rows=part, root=-1))  # fmt: skip
        else:
            reading.put(out, Value(Kind.NONE, value.power))


@rule("cumsum", "cumprod", "logcumsumexp", "tril", "triu", "_softmax", "_log_softmax", "_safe_softmax")
def _along_others(reading: Reading, node: Node) -> None:
    """What runs along other dimensions than the stream."""
    ref = node.inputs[0]
    last = len(reading.tape.facts[ref.number].dims) - 1
    dim = node.values.get("dim")
    over = {last - 1, last} if dim is None else {dim % (last + 1)}
    if over & set(reading.along(ref)):
        raise reading.refuse(f"{node.name} runs over the stream")
    value = reading.settled(reading.value(ref), Kind.FREE, role=f"under {node.name}")
    if not node.name.startswith("tri") and node.name != "cumsum":
        reading.still(value)
        keeps = value.kind in (Kind.NONE, Kind.COPY) or (value.kind is Kind.ZERO and node.name == "cumprod")
        value = replace(value, kind=value.kind if keeps else Kind.FREE, why=value.why or f"{node.name} acts on it")
    put_all(reading, node, replace(value, root=-1))


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
      "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d")  # fmt: skip
def _resampled(reading: Reading, node: Node) -> None:
    """Weighted sums over positions, for every channel alike."""
    ref = node.inputs[0]
    if any(dim > 1 for dim in reading.along(ref)):  # positions are the last dimensions
        unknown(reading, node)
        return
    put_all(reading, node, replace(reading.settled(reading.value(ref)), root=-1))


@rule("constant_pad_nd")
def _padded(reading: Reading, node: Node) -> None:
    """New positions, whose channels all hold one number."""
    ref, widths = node.inputs[0], node.values["pad"]
    last = len(reading.tape.facts[ref.number].dims) - 1
    sides = {last - at // 2 for at, width in enumerate(widths) if width}
    if sides & set(reading.along(ref)):
        raise reading.refuse("the stream is padded with more channels")
    value = reading.settled(reading.value(ref))
    if sides and node.numbers.get("value", 0.0) != 0.0:
        reading.still(value)
        value = Value(blended(value.kind, Kind.NONE), value.power)
    put_all(reading, node, value)


@rule("cat", "stack", "where", "maximum", "minimum")
def _joined(reading: Reading, node: Node) -> None:
    condition = node.values.get("condition")
    if isinstance(condition, Ref) and reading.along(condition) and reading.new is not Kind.COPY:
        raise reading.refuse("a choice is made channel by channel")
    names = [name for name in ("self", "other") if name in node.values]
    filled = [ref for ref in node.inputs if 0 not in reading.tape.facts[ref.number].shape]  # a cache is empty at first
    values = [operand(reading, node, name) for name in names] or [reading.value(ref) for ref in filled]
    put_all(reading, node, common(reading, [v for v in values if v is not NOTHING]))


def common(reading: Reading, values: Iterable[Value]) -> Value:
    """Return what a tensor becomes that is in each place one of several."""
    found: Value | None = None
    for value in [reading.settled(value) for value in values]:
        if found is None or found.power is None:
            found = value
        elif value.power is not None:
            reading.equal(found.power, value.power)
            found = Value(blended(found.kind, value.kind), found.power)
    return found or NOTHING


def blended(left: Kind, right: Kind) -> Kind:
    """Return what new channels hold that are in each place one of two, or a sum."""
    if left is right:
        return left
    spread = [kind for kind in (left, right) if kind in (Kind.MEAN, Kind.COPY)]
    return spread[0] if spread and Kind.NONE in (left, right) else Kind.FREE


@rule("masked_fill", "masked_fill_")
def _masked(reading: Reading, node: Node) -> None:
    value, filling = reading.settled(operand(reading, node, "self")), operand(reading, node, "value")
    if filling is not NOTHING:
        reading.still(value)
        value = Value(blended(value.kind, Kind.NONE), value.power)
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
    put_all(reading, node, common(reading, values if whole else [target, *values]))


@rule("zeros", "zeros_like", "new_zeros", "zero_", "zero", "empty", "empty_like", "new_empty", "empty_strided",
      "new_empty_strided")  # fmt: skip
def _zeros(reading: Reading, node: Node) -> None:
    for ref in node.outputs:
        reading.put(ref, NOTHING if reading.along(ref) else Value(Kind.NONE, None))


@rule("ones", "ones_like", "new_ones", "full", "full_like", "new_full", "fill_", "fill")
def _constants(reading: Reading, node: Node) -> None:
    power = plus(*(reading.number(name) for name in ("value", "fill_value")))
    for ref in node.outputs:
        reading.put(ref, Value(reading.spread if reading.along(ref) else Kind.NONE, power))
