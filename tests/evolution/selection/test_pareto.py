"""Non-dominated sorting against brute force, and what is kept of a front."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from graftwork.evolution.selection import ParetoSelector, non_dominated_fronts

points = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), min_size=1, max_size=14)


def matrix(counts: list[int], num_examples: int = 100) -> NDArray[np.bool_]:
    return np.arange(num_examples) < np.array(counts)[:, None]


def select(counts: list[int], costs: list[float], num_survivors: int) -> list[int]:
    selector = ParetoSelector()
    return selector.select(matrix(counts), np.array(costs, float), num_survivors, np.random.default_rng(0)).tolist()


def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other


@given(points)
def test_fronts_are_those_of_brute_force(members: list[tuple[int, int]]) -> None:
    counts, costs = (np.array(column) for column in zip(*members, strict=True))
    remaining = set(range(len(members)))
    for front in non_dominated_fronts(counts, costs.astype(float)):
        expected = {
            row
            for row in remaining
            if not any(dominates(members[other], members[row]) for other in remaining)
            and not any(members[other] == members[row] and other < row for other in remaining)
        }
        assert set(front) == expected
        assert counts[front].tolist() == sorted(counts[front].tolist(), reverse=True)
        remaining -= expected
    assert not remaining


@given(points, st.integers(1, 14))
def test_no_survivor_is_dominated_by_a_member_that_was_left_out(
    members: list[tuple[int, int]], num_survivors: int
) -> None:
    counts, costs = zip(*members, strict=True)
    chosen = select(list(counts), list(costs), num_survivors)
    left_out = set(range(len(members))) - set(chosen)
    assert not any(dominates(members[other], members[row]) for row in chosen for other in left_out)


def test_the_ends_of_the_front_come_first_and_the_crowded_middle_last() -> None:
    # Accuracy rises with cost, so all five are on the front; 2 is the most crowded, then 3, then 1.
    assert select([10, 50, 51, 70, 90], [1, 5, 5.1, 7, 9], 5) == [4, 0, 1, 3, 2]
    assert select([10, 50, 51, 70, 90], [1, 5, 5.1, 7, 9], 2) == [4, 0]


def test_a_cheap_member_survives_that_greedy_would_drop() -> None:
    assert select([90, 89, 40], [100, 99.5, 1], 2) == [0, 2]


def test_of_two_equal_members_only_the_first_is_on_the_front() -> None:
    assert non_dominated_fronts(np.array([5, 5, 3]), np.array([2.0, 2.0, 1.0])) == [[0, 2], [1]]


def test_members_of_one_cost_are_a_greedy_order() -> None:
    assert select([30, 50, 50, 10], [1, 1, 1, 1], 4) == [1, 2, 0, 3]
