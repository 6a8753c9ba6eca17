"""Co-evolution on probabilities."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from graftwork.errors import InputError
from graftwork.selection import SELECTORS, CoevolutionSelector, SoftCoevolutionSelector, SoftSelector, make_selector


def choose(probabilities: np.ndarray, num_survivors: int, power: float = 2) -> list[int]:
    selector = SoftCoevolutionSelector(power=power)
    rng = np.random.default_rng(0)
    return selector.select_soft(probabilities, np.ones(len(probabilities)), num_survivors, rng).tolist()


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([0, 1, 1.5, 2]))
def test_on_certain_members_the_soft_rule_is_the_hard_rule(seed: int, num_survivors: int, power: float) -> None:
    correct = np.random.default_rng(seed).random((6, 30)) < 0.6
    hard = CoevolutionSelector(power=power)
    expected = hard.select(correct, np.ones(6), num_survivors, np.random.default_rng(0)).tolist()
    assert choose(correct.astype(float), num_survivors, power) == expected


@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 1.5, 2]))
def test_nearly_certain_members_are_chosen_as_certain_ones_where_nothing_nearly_ties(seed: int, power: float) -> None:
    correct = np.random.default_rng(seed).random((6, 499)) < 0.6
    hard = CoevolutionSelector(power=power).select(correct, np.ones(6), 6, np.random.default_rng(0))
    for step in range(5):
        weights = (1.0 + correct[hard[:step]].sum(axis=0)) ** -power
        best, second = sorted((correct[hard[step:]] * weights).sum(axis=1))[:-3:-1]
        assume(best - second > 1e-3)
    assert choose(np.where(correct, 1 - 1e-9, 1e-9), 6, power) == hard.tolist()


@given(st.integers(0, 2**32 - 1), st.permutations(range(23)))
def test_the_order_of_examples_does_not_matter(seed: int, order: list[int]) -> None:
    probabilities = np.random.default_rng(seed).random((5, 23))
    assert choose(probabilities[:, order], 5) == choose(probabilities, 5)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1, 2]))
def test_every_choice_is_the_best_by_the_written_formula(seed: int, power: float) -> None:
    probabilities = np.random.default_rng(seed).random((6, 20))
    chosen = choose(probabilities, 6, power)
    for step, row in enumerate(chosen):
        hits = probabilities[chosen[:step]].sum(axis=0)
        scores = (probabilities * (1 + hits) ** -power).mean(axis=1)
        scores[chosen[:step]] = -1
        assert row == scores.argmax()


def test_members_with_the_same_probabilities_in_another_order_tie_exactly() -> None:
    rng = np.random.default_rng(0)
    row = rng.random(997) ** 4
    for _ in range(100):  # a plain sum differs in its last bits between such rows
        assert choose(np.stack([rng.permutation(row), rng.permutation(row)]), 1) == [0]


def test_an_unsure_member_leaves_its_examples_open() -> None:
    # Row 0 is best but unsure of its examples; row 1 repeats it with certainty, row 2 knows two other examples.
    unsure = np.array([[0.6] * 5 + [0] * 3, [0.55] * 5 + [0] * 3, [0] * 5 + [0.9, 0.4, 0]])
    assert choose(unsure, 2, power=1) == [0, 1]
    assert choose(unsure > 0.5, 2, power=2) == [0, 1]
    assert choose(unsure, 2, power=6) == [0, 2]


def test_probabilities_outside_the_unit_interval_are_an_error() -> None:
    for bad in (np.full((2, 3), 1.5), np.array([[0.5, np.nan, 0.1]])):
        with pytest.raises(InputError, match=r"in \[0, 1\]"):
            choose(bad, 1)


def test_only_soft_selectors_say_that_they_read_probabilities() -> None:
    soft = {name for name in SELECTORS if isinstance(make_selector(name), SoftSelector)}
    assert soft == {"soft-coevolution"}
