"""The order of a profile, and the rows that are drawn in it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import InputError
from graftwork.metrics import make_profile, order_examples


def correctness(seed: int, num_members: int = 4, num_examples: int = 200) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((num_members, num_examples)) < rng.random((num_members, 1))


seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(1, 6), st.booleans())
def test_the_order_is_a_permutation_by_group_then_by_how_many_are_right(
    seed: int, num_members: int, grouped: bool
) -> None:
    correct = correctness(seed, num_members)
    groups = np.random.default_rng(seed).integers(0, 3, 200) if grouped else None
    order = order_examples(correct, groups=groups)
    assert sorted(order.tolist()) == list(range(200))
    key = [(int(groups[e]) if groups is not None else 0, -int(correct[:, e].sum())) for e in order]
    assert key == sorted(key)


@pytest.mark.parametrize("num_members", [1, 2, 3, 5, 7])
def test_neighboring_sets_of_one_size_differ_by_one_exchanged_member(num_members: int) -> None:
    sets = (np.arange(2**num_members) >> np.arange(num_members)[:, None]) & 1 == 1  # every set once
    ordered = sets[:, order_examples(sets)]
    changes = (ordered[:, 1:] != ordered[:, :-1]).sum(axis=0)
    same_size = ordered[:, 1:].sum(axis=0) == ordered[:, :-1].sum(axis=0)
    assert same_size.sum() == 2**num_members - num_members - 1
    assert (changes[same_size] == 2).all()


@given(seeds)
def test_examples_that_the_same_members_get_right_stand_together_in_their_own_order(seed: int) -> None:
    correct = correctness(seed)
    order = order_examples(correct)
    codes = (1 << np.arange(4)) @ correct[:, order]
    assert (np.diff(codes) != 0).sum() + 1 == len(np.unique(codes))
    for code in np.unique(codes):
        assert (np.diff(order[codes == code]) > 0).all()


@given(seeds, st.booleans())
def test_rows_are_the_predictions_in_the_order_of_the_profile(seed: int, by_class: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 60)
    predicted = np.where(rng.random((3, 60)) < 0.7, labels, rng.integers(0, 3, (3, 60)))
    stacked = np.where(rng.random(60) < 0.9, labels, 0)
    profile = make_profile(
        predicted, labels, names=["m0", "m1", "m2"], ensembles={"stacked": stacked}, by_class=by_class
    )
    assert [(row.name, row.kind) for row in profile.rows] == [
        ("m0", "member"),
        ("m1", "member"),
        ("m2", "member"),
        ("vote", "vote"),
        ("stacked", "ensemble"),
        ("oracle", "oracle"),
    ]
    correct = (predicted == labels)[:, profile.order]
    assert np.array_equal(profile.rows[1].correct, correct[1])
    assert np.array_equal(profile.rows[4].correct, (stacked == labels)[profile.order])
    assert np.array_equal(profile.rows[5].correct, correct.any(axis=0))
    assert profile.rows[0].accuracy == (predicted[0] == labels).mean()
    for position, loner in enumerate(profile.loners):
        right = np.flatnonzero(correct[:, position])
        assert loner == (right[0] if len(right) == 1 else -1)
    ordered_labels = labels[profile.order]
    if by_class:
        assert profile.class_starts is not None
        assert all(ordered_labels[start] == label for label, start in profile.class_starts)
        assert [label for label, _ in profile.class_starts] == sorted(set(labels.tolist()))
        assert (np.diff(ordered_labels) >= 0).all()
    else:
        assert profile.class_starts is None


@given(seeds)
def test_runs_cover_exactly_the_right_positions_and_never_touch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.zeros(30, int)
    row = make_profile(rng.integers(0, 2, (2, 30)), labels, names=["a", "b"]).rows[1]
    painted = np.zeros(30, bool)
    for start, stop in row.runs():
        painted[start:stop] = True
    assert np.array_equal(painted, row.correct)
    ends = [end for run in row.runs() for end in run]
    assert ends == sorted(set(ends))


def test_two_selections_can_be_shown_in_one_order() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(50, int)
    greedy, other = rng.integers(0, 2, (3, 50)), rng.integers(0, 2, (3, 50))
    first = make_profile(greedy, labels, names="abc")
    second = make_profile(other, labels, names="abc", order=first.order)
    assert np.array_equal(second.order, first.order)
    assert np.array_equal(second.rows[0].correct, (other[0] == 0)[first.order])


def test_the_order_shows_fewer_runs_than_sorting_by_count_alone() -> None:
    correct = correctness(1, num_members=5, num_examples=5000)
    by_count = np.argsort(-correct.sum(axis=0), kind="stable")

    def num_runs(order: np.ndarray) -> int:
        return int((np.diff(correct[:, order].astype(int), axis=1) != 0).sum())

    assert num_runs(order_examples(correct)) < num_runs(by_count) / 50


def test_names_and_groups_that_do_not_fit_are_errors() -> None:
    with pytest.raises(InputError, match="one for each of 2 members, got 1"):
        make_profile(np.zeros((2, 3), int), np.zeros(3, int), names=["a"])
    with pytest.raises(InputError, match="one number for each example"):
        order_examples(np.ones((2, 3), bool), groups=np.zeros(4, int))
    with pytest.raises(InputError, match=r"bool \[member, example\]"):
        order_examples(np.ones(3, bool))
