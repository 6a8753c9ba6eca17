"""Read a run as the wider model would run it: what stands in new channels, and what must be scaled.

Every operation has a rule that says what its result holds in the new channels (`Kind`) and by which power of the ratio
its old ones are scaled. Two readings are tried. With zeros, new channels of the stream stay zero: all that a norm by
the root mean square notices is that it divides by more channels. With means, they carry the mean of the old ones: what
LayerNorm subtracts stays, its variance is taken over more channels, and what it makes in the new ones is zero. In both,
readers of the normed stream may have any weights in their new columns. A third, copies of all old channels, keeps every
mean and variance: it needs an integer factor, and readers share their weights among the copies.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from torch.utils._pytree import tree_flatten

from graftwork.surgery._space import Var, atoms, resolve
from graftwork.surgery.streams._powers import ContradictionError, Power, Powers, constant, plus, times
from graftwork.surgery.streams._tape import Node, Ref, Tape
from graftwork.surgery.streams._values import Fill, Kind, Roles, Rows, Value, Writer

PowerOf: TypeAlias = Callable[[int, str], float]
"""Number of a node and name of an argument → the power by which it changes."""
Rule: TypeAlias = "Callable[[Reading, Node], None]"
FOLLOWED = {"self", "other", "exponent", "eps", "alpha", "beta", "value", "scale", "min", "max", "fill_value",
            "negative_slope"}  # fmt: skip
"""Arguments that may be numbers that a forward computes from its width."""


class Refusal(Exception):  # noqa: N818 - internal signal, becomes a SurgeryError
    """The stream can't grow like that, and why."""


class Reading:
    """One reading of a run.

    Args:
        tape: The run.
        streams: The volumes that grow, by their identity.
        new: What new channels of the stream hold: zeros, means or copies.
        numbers: The power by which a number of an operation changes with the width; None leaves scales out of account.
        free: Rows that make no zeros, since what they are multiplied with is zero.
        later: Whether what a weight reads from the stream may be scaled, for something behind it to undo that.

    Attributes:
        roles: What the wider model asks of its parameters.
        powers: By how much they are scaled.
    """

    def __init__(
        self,
        tape: Tape,
        streams: set[Var],
        new: Kind,
        numbers: PowerOf | None,
        *,
        free: Iterable[Rows] = (),
        later: bool = False,
    ) -> None:
        self.tape, self.new, self.numbers, self.later = tape, new, numbers, later
        self.roles, self.powers = Roles(free=set(free)), Powers()
        self._streams = {id(var) for var in streams}
        self._values: dict[int, Value] = {}
        self._at, self._node = 0, Node("", "", {}, {}, ())

    def run(self, rules: Mapping[str, Rule]) -> None:
        """Read every operation.

        Args:
            rules: Name of an operation → its rule; ``"unknown"`` for all others.

        Raises:
            Refusal: The function can't be kept like that.
        """
        for at, node in enumerate(self.tape.nodes):
            self._at, self._node = at, node
            self._step(node, rules)
        self._at, self._node = len(self.tape.nodes), Node("the model's output", "", {}, {}, ())
        for ref in self.tape.outputs:
            self.still(self.value(ref))

    # -- what rules use
    # -----------------------------------------------------------------------------------------------------------

    def refuse(self, why: str) -> Refusal:
        """Return the refusal of the present operation."""
        place = f" in {self._node.place!r}" if self._node.place else ""
        return Refusal(f"{why}{place}")

    def along(self, ref: Ref) -> list[int]:
        """Return the dimensions of a tensor that hold the stream."""
        dims = self.tape.facts[ref.number].dims
        return [at for at, expr in enumerate(dims) if any(id(var) in self._streams for var in atoms(expr))]

    def plain(self, ref: Ref, dim: int) -> bool:
        """Whether a dimension is the stream alone, in one piece."""
        expr = resolve(self.tape.facts[ref.number].dims[dim])
        return len(expr) == 1 and len(expr[0]) == 1 and id(expr[0][0]) in self._streams

    def even(self, ref: Ref, dims: Iterable[int]) -> bool:
        """Whether everything that some dimensions run over holds the stream, so that copies are copies of all."""
        segments = [segment for dim in dims for segment in resolve(self.tape.facts[ref.number].dims[dim])]
        holds = [any(id(var) in self._streams for var in atoms((segment,))) for segment in segments]
        return any(holds) and (all(holds) or len(segments) == len(set(dims)))

    def whole(self, ref: Ref, dims: Iterable[int]) -> bool:
        """Whether a norm may run over some dimensions: one stream; where new channels are zero, also one of heads."""
        return self.even(ref, dims) if self.new is Kind.ZERO else all(self.plain(ref, dim) for dim in dims)

    @property
    def spread(self) -> Kind:
        """What new channels hold where one number stands in every channel."""
        return self.new if self.new is not Kind.ZERO else Kind.FREE

    def value(self, ref: Any) -> Value:
        """Return what a tensor becomes."""
        assert isinstance(ref, Ref)
        found = self._values.get(ref.number)
        if found is None:
            found = self._values[ref.number] = self._first(ref)
        return found

    def _first(self, ref: Ref) -> Value:
        fact, along = self.tape.facts[ref.number], self.along(ref)
        if fact.parameter is None:
            if along:
                raise self.refuse("a tensor that no operation has made holds the stream")
            return Value(Kind.NONE)
        if not along:
            return Value(Kind.NONE)
        if len(along) > 1:
            return Value(Kind.LEAF, {fact.parameter: 1.0}, ref.number, fact.parameter, -1)
        return Value(Kind.LEAF, {fact.parameter: 1.0}, ref.number, fact.parameter, self.source(ref, along[0]))

    def source(self, ref: Ref, dim: int) -> int:
        """Return which dimension of a parameter a dimension of its view shows."""
        fact = self.tape.facts[ref.number]
        if len(fact.sources[dim]) != 1:
            raise self.refuse(f"{fact.parameter!r} is viewed with dimensions merged that hold the stream")
        return next(iter(fact.sources[dim]))

    def put(self, ref: Ref, value: Value) -> None:
        """Note what a result becomes; a new tensor shows itself."""
        if value.kind is Kind.NONE and self.along(ref):
            raise self.refuse(f"{self._node.name} makes channels of the stream out of what has none")
        self._values[ref.number] = value if value.root >= 0 else replace(value, root=ref.number)

    def number(self, name: str) -> Power:
        """Return the power by which a number among the arguments changes."""
        return constant(self.numbers(self._at, name)) if self.numbers is not None else {}

    def equal(self, left: Power | None, right: Power | None, what: str = "") -> None:
        """Let two tensors be scaled alike; one that is zero everywhere is as any other."""
        if left is None or right is None or self.numbers is None:
            return
        try:
            self.powers.equal(left, right)
        except ContradictionError:
            raise self.refuse(
                what or f"{self._node.name} meets numbers that change differently with the width"
            ) from None

    def still(self, value: Value, what: str = "") -> None:
        """Let a tensor stay as it is."""
        self.equal(value.power, {}, what or f"{self._node.name} meets what changes with the width")

    def fill(self, name: str, dim: int, fill: Fill, *, why: str = "") -> None:
        """Note how new entries of a parameter start.

        Raises:
            Refusal: Somebody else needs others.
        """
        key = (name, dim)
        old = self.roles.fills.get(key)
        if old is None or old[0] is Fill.FREE:
            self.roles.fills[key] = (fill, why)
        elif fill not in (Fill.FREE, old[0]):
            raise self.refuse(f"{name!r} is {old[1]} and {why}, which need different new entries")

    def settled(self, value: Value, kind: Kind | None = None, *, role: str = "added to the stream") -> Value:
        """Return a parameter as a tensor whose new channels are chosen; other values as they are."""
        if value.kind is not Kind.LEAF:
            return value
        kind = self.new if kind is None or self.new is Kind.COPY else kind
        if value.dim < 0 or value.offset:
            raise self.refuse(f"{value.name!r} is used in a way that can't be followed")
        fill = {Kind.ZERO: Fill.ZERO, Kind.MEAN: Fill.MEAN, Kind.COPY: Fill.COPY}.get(kind, Fill.FREE)
        self.fill(value.name, value.dim, fill, why=role)
        return Value(kind, value.power, writer=Writer((value.name, value.dim)))

    def gain(self, value: Value) -> None:
        """Note that a parameter multiplies channels, whatever it holds in new ones."""
        if self.new is not Kind.COPY:  # copies are halved where they are read
            self.powers.first.add(value.name)
        self.fill(value.name, value.dim, Fill.COPY if self.new is Kind.COPY else Fill.FREE, why="a gain")
        if value.offset or value.name in self.roles.offsets:
            old = self.roles.offsets.setdefault(value.name, value.offset)
            if old != value.offset:
                raise self.refuse(f"{value.name!r} has {old:g} and {value.offset:g} added to it")

    def made_by(self, rows: Rows) -> Value:
        """Return what stands in new channels that some rows make, where others of the weight may be free."""
        within = [one for one in self.roles.free if (one.name, one.dim) == (rows.name, rows.dim)]
        meet = [one for one in within if one.start < rows.stop and rows.start < one.stop]
        return Value(Kind.FREE if meet else self.new, rows=rows, why=f"{rows.name!r} makes them freely" if meet else "")

    # -- one operation
    # ------------------------------------------------------------------------------------------------------------

    def _step(self, node: Node, rules: "Mapping[str, Rule]") -> None:
        inputs = [self.value(ref) for ref in node.inputs]
        for ref, value in zip(node.inputs, inputs, strict=True):
            if value.kind is Kind.FREE and not self.along(ref):
                raise self.refuse(value.why)
        plain = all(value.kind is Kind.NONE and value.power == {} for value in inputs)
        changed = any(self.number(name) for name in node.numbers if name in FOLLOWED)
        held = any(self.along(ref) for ref in node.outputs)
        if plain and not held and not changed:
            for ref in node.outputs:
                self._values[ref.number] = Value(Kind.NONE)
        else:
            rules.get(node.name, rules["unknown"])(self, node)
            self._refuse_both()
        for before, after in node.written:
            self._values[after.number] = self._rewritten(self.value(before), self.value(node.outputs[0]))

    def _refuse_both(self) -> None:
        """Refuse a writer that is added to the stream both with a gain behind it and without."""
        for name, dim in self.roles.plain & set(self.roles.weighted):
            raise self.refuse(f"{name!r} (dimension {dim}) is added with a gain in one place and without in another")

    def _rewritten(self, whole: Value, part: Value) -> Value:
        """What becomes of a tensor into a part of which something was written."""
        self.equal(whole.power, part.power)
        power = part.power if whole.power is None else whole.power
        if whole.kind is part.kind or part.kind is Kind.NONE or (whole.power is None and whole.kind is not Kind.NONE):
            return Value(whole.kind if whole.power is not None else part.kind, power)
        return Value(Kind.FREE, power)


def tensors(values: Iterable[Any]) -> list[Ref]:
    """Return the tensors among some arguments."""
    return [leaf for leaf in tree_flatten(list(values))[0] if isinstance(leaf, Ref)]


def halved(power: Power | None, factor: float) -> Power | None:
    """Return a multiple of a power; of zero everywhere, nothing."""
    return None if power is None else times(power, factor)


def product(left: Power | None, right: Power | None) -> Power | None:
    """Return the power of a product."""
    return None if left is None or right is None else plus(left, right)
