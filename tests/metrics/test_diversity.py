"""Diversity measures: hand-written matrices and naive loops over pairs and examples."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import InputError
from graftwork.metrics import (
    disagreement,
    diversity,
    double_fault,
    majority_vote,
    oracle_accuracy,
    q_statistic,
)

# N11 = 3, N10 = 1, N01 = 2, N00 = 4
PAIR = np.array([[1] * 3 + [1] + [0] * 2 + [0] * 4, [1] * 3 + [0] + [1] * 2 + [0] * 4], dtype=bool)
seeds = st.integers(0, 2**32 - 1)


def test_hand_written_pair_has_the_measures_of_the_formulas() -> None:
    assert disagreement(PAIR) == 3 / 10
    assert double_fault(PAIR) == 4 / 10
    assert q_statistic(PAIR) == (3 * 4 - 1 * 2) / (3 * 4 + 1 * 2)
    assert oracle_accuracy(PAIR) == 6 / 10


@given(seeds, st.integers(2, 6), st.integers(1, 40))
def test_pairwise_measures_are_those_of_a_naive_loop(seed: int, num_members: int, num_examples: int) -> None:
    rng = np.random.default_rng(seed)
    correct = rng.random((num_members, num_examples)) < rng.random((num_members, 1))
    differ, both_wrong, q_values = [], [], []
    for one, other in combinations(correct.tolist(), 2):
        cells = Counter(zip(one, other, strict=True))
        differ.append((cells[True, False] + cells[False, True]) / num_examples)
        both_wrong.append(cells[False, False] / num_examples)
        alike = cells[True, True] * cells[False, False]
        apart = cells[True, False] * cells[False, True]
        if alike + apart:
            q_values.append((alike - apart) / (alike + apart))
    assert disagreement(correct) == pytest.approx(np.mean(differ))
    assert double_fault(correct) == pytest.approx(np.mean(both_wrong))
    if q_values:
        assert q_statistic(correct) == pytest.approx(np.mean(q_values), abs=1e-12)
    else:
        assert np.isnan(q_statistic(correct))
    assert oracle_accuracy(correct) == np.mean([any(column) for column in correct.T.tolist()])


@given(seeds, st.integers(1, 7), st.integers(1, 30))
def test_vote_goes_to_the_most_frequent_class_and_a_tie_to_the_first_member_among_the_tied(
    seed: int, num_members: int, num_examples: int
) -> None:
    predicted = np.random.default_rng(seed).integers(0, 4, (num_members, num_examples))
    for winner, votes in zip(majority_vote(predicted), predicted.T.tolist(), strict=True):
        tally = Counter(votes)
        assert winner == next(vote for vote in votes if tally[vote] == max(tally.values()))


def test_hand_written_votes() -> None:
    predicted = np.array([[3, 0, 2, 1], [1, 1, 2, 0], [1, 2, 0, 0], [3, 1, 0, 2]])
    assert majority_vote(predicted).tolist() == [3, 1, 2, 0]


@given(seeds, st.integers(1, 6), st.integers(1, 30))
def test_summary_holds_the_parts_and_the_vote_never_beats_the_oracle(
    seed: int, num_members: int, num_examples: int
) -> None:
    rng = np.random.default_rng(seed)
    predicted, labels = rng.integers(0, 3, (num_members, num_examples)), rng.integers(0, 3, num_examples)
    correct = predicted == labels
    summary = diversity(predicted, labels)
    assert summary.num_members == num_members
    assert summary.mean_accuracy == pytest.approx(correct.mean())
    assert summary.best_accuracy == correct.mean(axis=1).max()
    assert summary.oracle_accuracy == oracle_accuracy(correct)
    assert summary.vote_accuracy <= summary.oracle_accuracy
    assert summary.best_accuracy <= summary.oracle_accuracy
    pairwise = (summary.disagreement, summary.double_fault)
    assert pairwise == ((disagreement(correct), double_fault(correct)) if num_members > 1 else (None, None))


def test_equal_members_have_no_disagreement_and_full_correlation() -> None:
    twins = PAIR[[0, 0]]
    assert disagreement(twins) == 0
    assert q_statistic(twins) == 1
    assert diversity(np.zeros((2, 5), int), np.zeros(5, int)).q_statistic is None


def test_independent_members_have_a_q_near_zero() -> None:
    correct = np.random.default_rng(0).random((4, 50_000)) < 0.7
    assert q_statistic(correct) == pytest.approx(0, abs=0.02)


def test_groups_that_have_no_pairs_or_no_examples_are_errors() -> None:
    with pytest.raises(InputError, match=r"at least 2 member"):
        disagreement(PAIR[:1])
    with pytest.raises(InputError, match="one example"):
        oracle_accuracy(PAIR[:, :0])
    with pytest.raises(InputError, match="got int64"):
        oracle_accuracy(PAIR.astype(int))
    with pytest.raises(InputError, match="at least one member"):
        majority_vote(np.zeros((0, 3), int))
    with pytest.raises(InputError, match="same examples"):
        diversity(np.zeros((2, 3), int), np.zeros(4, int))
