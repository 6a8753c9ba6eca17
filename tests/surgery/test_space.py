"""Laws of the unification algebra: lengths are kept, whatever is split comes together again, unify is an equality."""

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.surgery._layout import free_units, layout_of
from graftwork.surgery._methods import METHODS
from graftwork.surgery._space import (
    Expr,
    Misaligned,
    Reason,
    Var,
    atoms,
    concat,
    cut,
    freeze,
    fresh,
    merge,
    resolve,
    size_of,
    split,
    unify,
)

LAWS = settings(max_examples=150, deadline=None, derandomize=True)
SIZES = st.sampled_from([1, 2, 3, 4, 6, 8, 12])


@st.composite
def exprs(draw: st.DrawFn) -> Expr:
    """A dimension with a history: volumes that were multiplied, put side by side, split, cut and matched."""
    expr = fresh(draw(SIZES))
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["merge", "concat", "repeat", "split", "cut"]))
        total = size_of(expr)
        if kind == "merge" and total <= 48:
            other = fresh(draw(SIZES))
            expr = merge(expr, other) if draw(st.booleans()) else merge(other, expr)
        elif kind == "concat":
            expr = concat([expr, fresh(draw(SIZES))])
        elif kind == "repeat":
            expr = concat([expr, expr])
        elif kind == "split":
            _quietly(split, expr, draw(st.sampled_from(_factors(total))))
        elif total > 1:
            _quietly(cut, expr, draw(st.integers(1, total - 1)))
    return expr


def _factors(number: int) -> list[int]:
    return [k for k in range(1, number + 1) if number % k == 0]


def _quietly(operation: Callable[..., object], *arguments: object) -> None:
    with suppress(Misaligned):
        operation(*arguments)


def _form(*dims: Expr) -> list[Any]:
    """Dimensions up to the names of their volumes: which are the same, and how long."""
    numbers: dict[int, int] = {}

    def form(expr: Expr) -> list[Any]:
        return [[volume(var) for var in segment] for segment in resolve(expr)]

    def volume(var: Var) -> Any:
        # Inside a product, a volume that is bound to a concatenation stays one.
        return form(var.bound) if var.bound is not None else (numbers.setdefault(id(var), len(numbers)), var.size)

    return [form(expr) for expr in dims]


@LAWS
@given(expr=exprs(), data=st.data())
def test_what_is_split_and_merged_again_is_the_same_dimension(expr: Expr, data: st.DataObject) -> None:
    total = size_of(expr)
    inner = data.draw(st.sampled_from(_factors(total)))
    try:
        outside, inside = split(expr, inner)
    except Misaligned:
        return
    assert (size_of(outside), size_of(inside)) == (total // inner, inner)
    assert size_of(merge(outside, inside)) == total == size_of(expr)


@LAWS
@given(expr=exprs(), data=st.data())
def test_what_is_cut_and_put_side_by_side_again_is_the_same_dimension(expr: Expr, data: st.DataObject) -> None:
    total = size_of(expr)
    at = data.draw(st.integers(0, total))
    try:
        left, right = cut(expr, at)
    except Misaligned:
        return
    assert (size_of(left), size_of(right)) == (at, total - at)
    assert size_of(expr) == total
    assert _form(concat([left, right])) == _form(expr)


@LAWS
@given(first=exprs(), second=exprs())
def test_unify_is_idempotent_and_makes_two_dimensions_one(first: Expr, second: Expr) -> None:
    sizes = size_of(first), size_of(second)
    try:
        unify(first, second)
    except Misaligned:
        return
    assert (size_of(first), size_of(second)) == sizes
    before = _form(first, second)
    assert before[0] == before[1]
    unify(first, second)
    assert _form(first, second) == before


matched = {"unified": 0, "misaligned": 0}


@LAWS
@given(data=st.data())
def test_unify_is_symmetric(data: st.DataObject) -> None:
    first = data.draw(exprs())
    # Of the same length, so that most pairs can be matched: one volume, factors, or pieces side by side.
    total = size_of(first)
    factor = data.draw(st.sampled_from(_factors(total)))
    at = data.draw(st.integers(0, total))
    pieces = [fresh(n) for n in (at, total - at) if n]
    second = data.draw(st.sampled_from([fresh(total), merge(fresh(total // factor), fresh(factor)), concat(pieces)]))
    one, other = copy.deepcopy((first, second)), copy.deepcopy((first, second))
    found = []
    for pair, order in ((one, (0, 1)), (other, (1, 0))):
        try:
            unify(pair[order[0]], pair[order[1]])
            found.append(_form(*pair))
        except Misaligned:
            found.append(None)
    assert found[0] == found[1]
    matched["misaligned" if found[0] is None else "unified"] += 1


def test_the_laws_saw_pairs_that_match_and_pairs_that_do_not() -> None:
    assert matched["unified"] >= 50
    assert matched["misaligned"] >= 5


@LAWS
@given(expr=exprs(), extra=st.integers(1, 4), data=st.data())
def test_a_layout_keeps_every_old_index_once_and_in_order(expr: Expr, extra: int, data: st.DataObject) -> None:
    volumes = atoms(expr)
    if not volumes:
        return
    var = data.draw(st.sampled_from(volumes))
    layout = layout_of(expr, {var: free_units(var.size, extra)})
    assert layout.size == size_of(expr)
    assert list(layout.old[layout.old >= 0]) == list(range(layout.size))
    assert layout.grows
    assert set(layout.source) == set(range(layout.reduced))


def test_what_forbids_a_volume_to_grow_forbids_its_finer_volumes() -> None:
    expr = fresh(12)
    freeze(expr, Reason("a reason"))
    outside, inside = split(expr, 4)
    assert [reason.text for var in (*atoms(outside), *atoms(inside)) for reason in var.reasons] == ["a reason"] * 2


@pytest.mark.parametrize(("size", "inner"), [(6, 4), (5, 2)])
def test_what_has_no_common_factor_is_misaligned(size: int, inner: int) -> None:
    with pytest.raises(Misaligned):
        split(fresh(size), inner)


def test_a_flatten_keeps_the_channels_a_volume_of_their_own() -> None:
    """The first worked examples of `_space` and `_layout`: 64 channels × 49 pixels, one pair of twins more."""
    channels, rows, columns, weight = fresh(64), fresh(7), fresh(7), fresh(3136)
    flat = merge(channels, merge(rows, columns))
    unify(weight, flat)
    (made,) = atoms(channels)
    assert [[var.size for var in segment] for segment in resolve(weight)] == [[64, 7, 7]]
    assert resolve(weight)[0][0] is resolve(channels)[0][0] is made
    layout = layout_of(weight, {made: METHODS["r2r"].unit_map(64, 2, rng=np.random.default_rng(0))})
    assert (layout.size, layout.new_size, layout.reduced) == (3136, 3234, 65 * 49)
    assert list(layout.old) == [*range(3136), *[-1] * 98]
    assert list(layout.source[-98:]) == [*range(64 * 49, 65 * 49)] * 2
    assert list(layout.factor) == [1.0] * 3185 + [-1.0] * 49


def test_heads_and_their_width_are_two_volumes_of_one_dimension() -> None:
    """The second worked examples: 12 heads × 64 grow by whole heads, or every head at its own end."""
    rows = fresh(768)
    heads, width = split(rows, 64)
    assert _form(merge(heads, width)) == _form(rows)
    (head,), (unit,) = atoms(heads), atoms(width)
    assert list(layout_of(rows, {head: free_units(12, 2)}).old) == [*range(768), *[-1] * 128]
    old = layout_of(rows, {unit: free_units(64, 2)}).old.reshape(12, 66)
    assert (old[:, 64:] == -1).all()
    assert list(old[:, :64].ravel()) == list(range(768))


def test_the_order_of_pieces_is_in_the_expression() -> None:
    """The third worked example: ``a, b = x.chunk(2)`` and ``cat([b, a])``."""
    x = fresh(8)
    first, second = cut(x, 4)
    swapped = concat([second, first])
    assert resolve(x) == (first[0], second[0])
    assert resolve(swapped) == (second[0], first[0])
