"""A selector that rules rows out early chooses what it chooses of all answers, in the same order."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from graftwork.errors import InputError
from graftwork.selection import SELECTORS, BoundedSelector, GreedySelector, make_selector

BOUNDED = sorted(name for name in SELECTORS if isinstance(make_selector(name), BoundedSelector))


def in_shards(
    selector: BoundedSelector, correct: NDArray[np.bool_], shards: list[int], count: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Ask shard after shard, only rows not yet ruled out; return what is known and how many each row was asked."""
    known, asked = np.zeros_like(correct), np.zeros(len(correct), dtype=np.int64)
    alive, start = np.ones(len(correct), dtype=bool), 0
    for size in shards:
        stop = min(start + size, correct.shape[1])
        known[alive, start:stop] = correct[alive, start:stop]
        asked[alive] = start = stop
        fewest = known.sum(axis=1, dtype=np.int64)
        out = selector.hopeless(fewest, fewest + correct.shape[1] - asked, count)
        assert out[~alive].all()  # who was ruled out stays so
        alive &= ~out
    return known, asked


@pytest.mark.parametrize("name", BOUNDED)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 8),
    st.integers(1, 40),
    st.integers(1, 10),
    st.lists(st.integers(1, 12), min_size=40, max_size=40),
    st.sampled_from([0.02, 0.3, 1.0]),
)
def test_stopping_early_leaves_the_choice_and_its_order_alone(
    name: str, seed: int, num_members: int, num_examples: int, num_survivors: int, shards: list[int], spread: float
) -> None:
    """A small spread makes ties and near ties, a large one makes rows that are ruled out soon."""
    rng = np.random.default_rng(seed)
    correct = rng.random((num_members, num_examples)) < 1 - spread * rng.random((num_members, 1))
    costs, selector = rng.random(num_members), make_selector(name)
    assert isinstance(selector, BoundedSelector)
    known, asked = in_shards(selector, correct, shards, num_survivors)
    expected = selector.select(correct, costs, num_survivors, np.random.default_rng(0)).tolist()
    assert selector.select(known, costs, num_survivors, np.random.default_rng(0)).tolist() == expected
    assert (asked[expected] == num_examples).all()
    if num_members:
        assert asked[int(correct.sum(axis=1).argmax())] == num_examples


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=4), st.integers(1, 4))
def test_greedy_rules_out_exactly_who_no_possible_answers_could_save(bounds: list[tuple[int, int]], count: int) -> None:
    """Against every way in which the missing answers could come out: no row too many, and none too few."""
    fewest = np.array([low for low, _ in bounds])
    most = fewest + np.array([extra for _, extra in bounds])
    chosen: set[int] = set()
    for counts in product(*(range(low, high + 1) for low, high in zip(fewest, most, strict=True))):
        correct = np.arange(5) < np.array(counts)[:, None]
        chosen |= set(GreedySelector().select(correct, np.ones(len(counts)), count, np.random.default_rng(0)).tolist())
    out = GreedySelector().hopeless(fewest, most, count)
    assert out.dtype == np.bool_
    assert set(np.flatnonzero(~out).tolist()) == chosen


def test_rows_are_ruled_out_long_before_the_end_where_members_lie_far_apart() -> None:
    correct = np.arange(100) < np.array([99, 98, 20, 10])[:, None]
    rng = np.random.default_rng(0)
    shuffled = np.stack([rng.permutation(row) for row in correct])
    _, asked = in_shards(GreedySelector(), shuffled, [5] * 20, 2)
    assert asked[:2].tolist() == [100, 100]
    assert asked[2:].max() < 70


def test_greedy_is_bounded_and_those_that_draw_or_read_who_is_right_where_are_not() -> None:
    assert "greedy" in BOUNDED
    assert not set(BOUNDED) & {"random", "tournament", "age", "coevolution", "soft-coevolution"}


@pytest.mark.parametrize(
    ("fewest", "most", "count"), [([1, 2], [3], 1), ([3], [2], 1), ([1], [2], 0), ([[1]], [[2]], 1)]
)
def test_bounds_that_mean_nothing_are_refused(fewest: list[int], most: list[int], count: int) -> None:
    with pytest.raises(InputError, match="fewest ≤ most"):
        GreedySelector().hopeless(np.array(fewest), np.array(most), count)
