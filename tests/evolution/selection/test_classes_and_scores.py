"""Selection by another measure than the number of correct examples."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import InputError
from graftwork.evolution.selection import SELECTORS, CoevolutionSelector, GreedySelector, ParetoSelector
from graftwork.metrics import balanced_accuracies

seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int) -> tuple[Any, Any, Any]:
    """Correctness of 6 members, their costs, and classes of very different sizes."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(4, size=40, p=[0.7, 0.15, 0.1, 0.05])
    return rng.random((6, 40)) < rng.random((6, 1)), rng.integers(1, 9, 6).astype(float), classes


def choose(selector: Any, correct: Any, costs: Any, count: int = 4, **how: Any) -> list[int]:
    return selector.select(correct, costs, count, np.random.default_rng(0), **how).tolist()


@pytest.mark.parametrize("name", sorted(SELECTORS))
@given(seeds)
def test_classes_of_equal_size_change_nothing(name: str, seed: int) -> None:
    correct, costs, _ = drawn(seed)
    classes = np.arange(40) % 4
    selector = SELECTORS[name]()
    assert choose(selector, correct, costs, classes=classes) == choose(selector, correct, costs)


@given(seeds)
def test_greedy_selection_by_classes_is_that_by_balanced_accuracy(seed: int) -> None:
    correct, costs, classes = drawn(seed)
    scores = balanced_accuracies(correct, classes)
    expected = sorted(range(6), key=lambda row: (-scores[row], row))[:4]
    assert choose(GreedySelector(), correct, costs, classes=classes) == expected
    assert choose(GreedySelector(), correct, costs, scores=scores) == expected


@given(seeds, st.integers(0, 4))
def test_coevolution_weighs_every_example_by_its_class(seed: int, power: int) -> None:
    correct, costs, classes = drawn(seed)
    counts = np.bincount(classes)
    chosen = choose(CoevolutionSelector(power=power), correct, costs, classes=classes)
    for step, row in enumerate(chosen):
        hits = correct[chosen[:step]].sum(axis=0)
        scores = {
            other: sum(
                Fraction(1, int(counts[classes[e]])) / (1 + int(hits[e])) ** power
                for e in np.flatnonzero(correct[other])
            )
            for other in range(6)
            if other not in chosen[:step]
        }
        assert row == max(scores, key=lambda other: (scores[other], -other))


@given(seeds)
def test_one_coevolved_survivor_is_the_greedy_one_by_classes_too(seed: int) -> None:
    correct, costs, classes = drawn(seed)
    one = choose(CoevolutionSelector(), correct, costs, 1, classes=classes)
    assert one == choose(GreedySelector(), correct, costs, 1, classes=classes)


@given(seeds)
def test_the_first_of_a_front_has_the_best_score(seed: int) -> None:
    correct, costs, _ = drawn(seed)
    scores = np.random.default_rng(seed + 1).normal(size=6)
    chosen = choose(ParetoSelector(), correct, costs, scores=scores)
    assert scores[chosen[0]] == scores.max()


def test_coevolution_refuses_scores_of_whole_members() -> None:
    correct, costs, _ = drawn(0)
    with pytest.raises(InputError, match=r"CoevolutionSelector.*take greedy or pareto"):
        choose(CoevolutionSelector(), correct, costs, scores=np.zeros(6))
    with pytest.raises(InputError, match="scores: expected finite numbers, got nan in row 2"):
        choose(GreedySelector(), correct, costs, scores=np.array([0, 0, np.nan, 0, 0, 0]))
