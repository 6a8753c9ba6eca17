"""Co-evolution: the report's formula, by hand, by brute force and by its laws."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from graftwork.errors import ConfigError
from graftwork.evolution.selection import CoevolutionSelector, GreedySelector

Correct = NDArray[np.bool_]


@st.composite
def correctness(draw: st.DrawFn, min_examples: int = 1, max_examples: int = 60) -> Correct:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(1, 8)), draw(st.integers(min_examples, max_examples))
    return rng.random(shape) < rng.random((shape[0], 1))


def coevolve(correct: Correct, num_survivors: int, power: float = 2) -> list[int]:
    selector = CoevolutionSelector(power=power)
    rng = np.random.default_rng(0)
    return selector.select(correct, np.ones(len(correct)), num_survivors, rng).tolist()


def exact_scores(correct: Correct, chosen: list[int], power: int) -> dict[int, Fraction]:
    """The formula as it is written, one example at a time, in exact fractions."""
    hits = [sum(bool(correct[row, example]) for row in chosen) for example in range(correct.shape[1])]
    return {
        row: sum(
            (Fraction(int(right), (1 + hit) ** power) for right, hit in zip(correct[row], hits, strict=True)),
            Fraction(0),
        )
        / correct.shape[1]
        for row in range(len(correct))
    }


def test_hand_written_matrix_prefers_the_complement_to_the_second_best() -> None:
    correct = np.array([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 1, 0]], dtype=bool)
    # After row 0, row 1 scores (1/4 + 1/4) / 5 and row 2 scores 1 / 5.
    assert coevolve(correct, 3) == [0, 2, 1]


def test_hand_written_matrix_whose_scores_tie_exactly_goes_to_the_lower_row() -> None:
    # After row 0, row 1 scores 4 · 1/4 and row 2 scores 1: equal, though summed from different terms.
    correct = np.array([[1] * 5 + [0], [1] * 4 + [0] * 2, [0] * 5 + [1]], dtype=bool)
    assert coevolve(correct, 2) == [0, 1]
    assert coevolve(correct[[0, 2, 1]], 2) == [0, 1]


def test_a_tie_that_floats_would_miss_goes_to_the_lower_row() -> None:
    # Six equal rows are chosen first; then row 6 scores 49 · 1/49 (0.9999999999999999 in floats) and row 7 scores 1.
    correct = np.zeros((8, 51), dtype=bool)
    correct[:6, :50] = correct[6, :49] = correct[7, 50] = True
    assert coevolve(correct, 8) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert coevolve(correct[[0, 1, 2, 3, 4, 5, 7, 6]], 8) == [0, 1, 2, 3, 4, 5, 6, 7]


@given(correctness(), st.integers(1, 8), st.integers(0, 4))
def test_every_choice_is_the_best_by_the_written_formula(correct: Correct, num_survivors: int, power: int) -> None:
    chosen = coevolve(correct, num_survivors, power)
    for step, row in enumerate(chosen):
        scores = exact_scores(correct, chosen[:step], power)
        open_rows = [other for other in range(len(correct)) if other not in chosen[:step]]
        assert row == max(open_rows, key=lambda other: (scores[other], -other))


@given(correctness(), st.floats(0, 64))
def test_one_survivor_is_the_greedy_one(correct: Correct, power: float) -> None:
    greedy = GreedySelector().select(correct, np.ones(len(correct)), 1, np.random.default_rng(0))
    assert coevolve(correct, 1, power) == greedy.tolist()


@given(correctness(), st.integers(1, 9))
def test_power_zero_is_the_greedy_order(correct: Correct, num_survivors: int) -> None:
    greedy = GreedySelector().select(correct, np.ones(len(correct)), num_survivors, np.random.default_rng(0))
    assert coevolve(correct, num_survivors, 0) == greedy.tolist()


@given(correctness(min_examples=30), st.integers(1, 8), st.permutations(range(8)))
def test_permuted_members_are_chosen_all_the_same_where_nothing_ties(
    correct: Correct, num_survivors: int, permutation: list[int]
) -> None:
    order = [row for row in permutation if row < len(correct)]
    chosen = coevolve(correct, num_survivors)
    for step in range(len(chosen)):
        scores = exact_scores(correct, chosen[:step], 2)
        open_scores = sorted(scores[row] for row in range(len(correct)) if row not in chosen[:step])
        assume(open_scores[-2:-1] != open_scores[-1:])
    assert [order[row] for row in coevolve(correct[order], num_survivors)] == chosen


@given(correctness(), st.integers(2, 8), st.sampled_from([20, 33.5, 64]))
def test_with_a_large_power_the_next_choice_covers_most_uncovered_examples(
    correct: Correct, num_survivors: int, power: float
) -> None:
    chosen = coevolve(correct, num_survivors, power)
    for step in range(1, len(chosen)):
        uncovered = ~correct[chosen[:step]].any(axis=0)
        gains = (correct & uncovered).sum(axis=1)
        open_rows = [row for row in range(len(correct)) if row not in chosen[:step]]
        assert gains[chosen[step]] == max(gains[row] for row in open_rows)


@given(st.integers(1, 40), st.integers(0, 4), st.data())
def test_a_duplicate_of_the_chosen_member_scores_its_accuracy_on_reweighted_examples(
    covered: int, power: int, data: st.DataObject
) -> None:
    """Each covered example counts 2^-p, so a rival with new examples wins exactly if it has more than covered / 2^p."""
    num_new = data.draw(st.integers(0, covered))
    correct = np.zeros((3, covered + 40), dtype=bool)
    correct[:2, :covered] = True  # the first member and its duplicate
    correct[2, covered : covered + num_new] = True
    rival_wins = Fraction(num_new) > Fraction(covered, 2**power)
    assert coevolve(correct, 2, power) == [0, 2 if rival_wins else 1]


def test_coevolution_covers_more_than_greedy_on_random_experts() -> None:
    rng = np.random.default_rng(0)
    specialty = rng.integers(0, 4, 400)
    correct = np.stack([rng.random(400) < np.where(specialty == expert % 4, 0.95, 0.5) for expert in range(12)])
    greedy = GreedySelector().select(correct, np.ones(12), 4, rng).tolist()
    assert correct[coevolve(correct, 4)].any(axis=0).mean() > correct[greedy].any(axis=0).mean()


@pytest.mark.parametrize("power", [-0.1, 64.5, float("nan"), float("inf")])
def test_a_power_outside_its_range_is_an_error(power: float) -> None:
    with pytest.raises(ConfigError, match="from 0"):
        CoevolutionSelector(power=power)
