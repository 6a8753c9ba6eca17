"""Index spaces: what every dimension of every tensor is made of.

A dimension is an `Expr`: a concatenation of segments, each a product of volumes (`Var`), outermost first. A
convolution's output is one volume; flattening ``[C, H, W]`` gives the product ``C·H·W``; concatenation gives
two segments; splitting heads *refines* a volume into a product. Operations that act on each channel alone
*unify* the dimensions of their operands, so whatever must change together ends up as one volume.

This is unification over a small algebra: a volume is either free or bound to an expression of finer volumes.
"""

# Worked example 1, ``conv → flatten → linear`` on an image of 7 × 7 with 64 channels:
#
#   the convolution's weight [64, 3, 3, 3]     its rows are a volume C of 64
#   its output [B, 64, 7, 7]                   is made of B, C, and P and Q of 7 each
#   flatten(1) → [B, 3136]                     merge(C, merge(P, Q)) = ((C, P, Q),), one segment of three volumes
#   linear(…), weight [10, 3136]               its columns are a volume K of 3136, unified with ((C, P, Q),);
#                                              from then on resolve(((K,),)) = ((C, P, Q),)
#
#   So the linear map's columns are 64 · 7 · 7 as well, and 2 more units of C are 2 · 49 more columns, at the end.
#
# Worked example 2, 12 heads × 64:
#
#   linear(x), weight [768, 768]               its rows are a volume R of 768
#   view(B, T, 12, 64)                         split(R, 64): R.bound = ((H, D),), H of 12 and D of 64
#   attention sums over D (frozen), not H      R can still grow: by whole heads, 64 rows each
#   transpose, reshape(B, T, 768)              merge(H, D) = ((H, D),), the same as R
#
# Worked example 3, ``a, b = x.chunk(2)`` and ``cat([b, a])``:
#
#   x is one volume V of 8                     cut(V, 4): V.bound = ((L,), (M,)), two segments of 4 each
#   a is ((L,),), b is ((M,),)                 cat gives ((M,), (L,)): the order is in the expression, not in V

import math
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Reason:
    """Why a volume can't grow.

    Attributes:
        text: What stands in the way, for a reader.
        unsupported: True where the operation is not understood, False where growth would change the function.
        approximable: True where growth would change the function gradually, through the mean and variance of the
            channels: what ``approximate=True`` allows.
    """

    text: str
    unsupported: bool = False
    approximable: bool = False


class Misaligned(Exception):  # noqa: N818 - internal signal, never reaches a user
    """Two index spaces have no common refinement."""


class Var:
    """A volume: ``size`` interchangeable units of one index space.

    Attributes:
        size: Number of units.
        bound: Expression of finer volumes that replaces this one, None while it is free.
        reasons: Why it can't grow; empty where nothing is known against it.
    """

    __slots__ = ("bound", "reasons", "size")

    def __init__(self, size: int, reasons: tuple[Reason, ...] = ()) -> None:
        self.size = size
        self.bound: Expr | None = None
        self.reasons = reasons


Segment: TypeAlias = tuple[Var, ...]
Expr: TypeAlias = tuple[Segment, ...]
ONE: Expr = ((),)


def fresh(size: int, reason: Reason | None = None) -> Expr:
    """Return a dimension of one new volume (no volume for size 1)."""
    if size == 1:
        return ONE
    return ((Var(size, (reason,) if reason else ()),),)


def _segment_size(segment: Segment) -> int:
    return math.prod(var.size for var in segment)


def size_of(expr: Expr) -> int:
    """Return the length of a dimension."""
    return sum(_segment_size(segment) for segment in expr)


def resolve(expr: Expr) -> Expr:
    """Replace bound volumes by what they are bound to.

    A volume bound to a concatenation is distributed where it is outermost; inside a product it stays (and is then
    *composite*: bound, but not replaceable within one segment).
    """
    result: list[Segment] = []
    for segment in expr:
        result += _resolve_segment(segment)
    return tuple(result)


def _resolve_segment(segment: Segment) -> list[Segment]:
    for position, var in enumerate(segment):
        if var.size == 1 or var.bound is None:
            continue
        binding = resolve(var.bound)
        if len(binding) == 1:
            return _resolve_segment(segment[:position] + binding[0] + segment[position + 1 :])
        if position == 0:
            rest = segment[1:]
            return [piece for head in binding for piece in _resolve_segment(head + rest)]
    return [tuple(var for var in segment if var.size != 1)]


def atoms(expr: Expr) -> list[Var]:
    """Return the free volumes of a dimension, outermost and first ones first, without repetition."""
    found: dict[int, Var] = {}

    def walk(dimension: Expr) -> None:
        for segment in resolve(dimension):
            for var in segment:
                if var.bound is not None:
                    walk(var.bound)
                else:
                    found.setdefault(id(var), var)

    walk(expr)
    return list(found.values())


def freeze(expr: Expr, reason: Reason) -> None:
    """Note for every volume of a dimension why it can't grow."""
    for var in atoms(expr):
        # A few are enough for a reader, but one that forbids even an approximate growth is never left out.
        forbids = not reason.approximable and all(known.approximable for known in var.reasons)
        if reason not in var.reasons and (len(var.reasons) < 6 or forbids):
            var.reasons = (*var.reasons, reason)


def _bind(var: Var, expr: Expr) -> None:
    """Bind a free volume; what forbids it to grow forbids its finer volumes as well."""
    for finer in atoms(expr):
        finer.reasons = (*finer.reasons, *(r for r in var.reasons if r not in finer.reasons))
    var.bound = expr


def concat(exprs: list[Expr]) -> Expr:
    """Return the concatenation of dimensions."""
    return tuple(segment for expr in exprs for segment in resolve(expr))


def merge(outer: Expr, inner: Expr) -> Expr:
    """Return the product dimension, ``outer`` varying slowest (as ``view`` merges two dimensions)."""
    outer, inner = resolve(outer), resolve(inner)
    if size_of(outer) == 1:
        return inner
    if size_of(inner) == 1:
        return outer
    if len(inner) > 1:
        wrapper = Var(size_of(inner))
        wrapper.bound = inner
        inner = ((wrapper,),)
    return tuple(segment + inner[0] for segment in outer)


def _cut_segment(segment: Segment, at: int) -> tuple[Expr, Expr]:
    """Cut one product after ``at`` indices; its outermost volume is cut in two."""
    first, rest = segment[0], segment[1:]
    inner = _segment_size(rest)
    if at % inner:
        raise Misaligned
    head = at // inner
    if first.bound is not None:  # a composite volume alone in its segment
        left, right = cut(first.bound, head)
        return merge(left, (rest,)), merge(right, (rest,))
    left_var, right_var = Var(head), Var(first.size - head)
    _bind(first, ((left_var,), (right_var,)))
    return ((left_var, *rest),), ((right_var, *rest),)


def cut(expr: Expr, at: int) -> tuple[Expr, Expr]:
    """Cut a dimension into its first ``at`` indices and the rest.

    Raises:
        Misaligned: The cut falls inside a unit.
    """
    left: list[Segment] = []
    right = list(resolve(expr))
    taken = 0
    while right and taken < at:
        size = _segment_size(right[0])
        if taken + size <= at:
            left.append(right.pop(0))
            taken += size
            continue
        head, tail = _cut_segment(right.pop(0), at - taken)
        # The cut volume may stand in the other segments too.
        left = [*resolve(tuple(left)), *resolve(head)]
        right = [*resolve(tail), *resolve(tuple(right))]
        taken = at
    return tuple(left), tuple(right)


def split(expr: Expr, inner: int) -> tuple[Expr, Expr]:
    """Split a dimension into ``outer · inner`` (as ``view`` splits one dimension in two).

    Args:
        expr: The dimension.
        inner: Length of the inner dimension.

    Returns:
        The outer and the inner dimension.

    Raises:
        Misaligned: The dimension has no such factor.
    """
    total = size_of(expr)
    if inner == 1:
        return resolve(expr), ONE
    if total % inner:
        raise Misaligned
    if total == inner:
        return ONE, resolve(expr)
    groups = _groups(resolve(expr), inner)
    if all(len(group) == 1 or size_of(group) == inner for group in groups):
        pairs = [_split_segment(group[0], inner) if len(group) == 1 else (ONE, group) for group in groups]
        for _, other in pairs[1:]:
            unify(pairs[0][1], other)
        return concat([outer for outer, _ in pairs]), resolve(pairs[0][1])
    return _split_rows(expr, inner)


def _groups(segments: Expr, inner: int) -> list[Expr]:
    """Segments side by side whose lengths are together a multiple of another one, as few in a group as can be."""
    groups: list[Expr] = [()]
    for segment in segments:
        groups[-1] = (*groups[-1], segment)
        if size_of(groups[-1]) % inner == 0:
            groups.append(())
    return groups[:-1]


def _split_rows(expr: Expr, inner: int) -> tuple[Expr, Expr]:
    """Cut a concatenation into equal rows and unify them: the rows are what the inner dimension runs over."""
    rows: list[Expr] = []
    rest = expr
    while size_of(rest) > inner:
        row, rest = cut(rest, inner)
        rows.append(row)
    for row in rows:
        unify(row, rest)
    return fresh(len(rows) + 1, Reason("a dimension made by splitting a concatenation")), resolve(rest)


def _split_segment(segment: Segment, inner: int) -> tuple[Expr, Expr]:
    taken: Segment = ()
    need = inner
    rest = list(segment)
    while need > 1:
        var = rest.pop()
        if var.size <= need:
            if need % var.size:
                raise Misaligned
            taken = (var, *taken)
            need //= var.size
            continue
        if var.size % need:
            raise Misaligned
        if var.bound is not None:
            outer, within = split(var.bound, need)
            return merge((tuple(rest),), outer), merge(within, (taken,))
        outer_var, inner_var = Var(var.size // need), Var(need)
        _bind(var, ((outer_var, inner_var),))
        rest.append(outer_var)
        taken = (inner_var, *taken)
        need = 1
    return resolve((tuple(rest),)), resolve((taken,))


def unify(first: Expr, second: Expr) -> None:
    """Make two dimensions the same index space.

    Raises:
        Misaligned: They have no common refinement (or differ in length).
    """
    while True:
        first, second = resolve(first), resolve(second)
        if first == second:
            return
        if size_of(first) != size_of(second):
            raise Misaligned
        if len(first) == 1 and len(second) == 1:
            _unify_segments(first[0], second[0])
            return
        step = min(_segment_size(first[0]), _segment_size(second[0]))
        head, first = cut(first, step)
        other, second = cut(second, step)
        head, other = resolve(head), resolve(other)
        if len(head) == 1 and len(other) == 1:
            _unify_segments(head[0], other[0])
        else:
            unify(head, other)
        if not first:
            return


def _unify_segments(first: Segment, second: Segment) -> None:
    left, right = resolve((first,)), resolve((second,))
    if left == right:
        return
    if len(left) > 1 or len(right) > 1:
        unify(left, right)
        return
    a, b = left[0][0], right[0][0]
    if a.size == b.size:
        _unify_vars(a, b)
        rest = resolve((left[0][1:],)), resolve((right[0][1:],))
    else:
        if a.size < b.size:
            a, b, left, right = b, a, right, left
        # a is the larger: refine it so that its outer factor is b.
        if a.size % b.size:
            raise Misaligned
        outer, inner = split(((a,),), a.size // b.size)
        unify(outer, ((b,),))
        rest = resolve(merge(inner, (left[0][1:],))), resolve((right[0][1:],))
    unify(*rest)


def _unify_vars(a: Var, b: Var) -> None:
    if a is b:
        return
    if a.bound is not None and b.bound is not None:
        unify(a.bound, b.bound)
    elif a.bound is not None:
        _bind(b, ((a,),))
    else:
        _bind(a, ((b,),))
