"""Selectors that draw: random, tournament, age."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import ConfigError
from graftwork.evolution.selection import AgeSelector, GreedySelector, RandomSelector, Selector, TournamentSelector

CORRECT = np.arange(100) < np.array([10, 80, 30, 60, 50, 20])[:, None]
COSTS = np.ones(6)


def choose(selector: Selector, num_survivors: int, seed: int) -> list[int]:
    return selector.select(CORRECT, COSTS, num_survivors, np.random.default_rng(seed)).tolist()


def frequencies(selector: Selector, num_survivors: int, num_seeds: int = 2000) -> list[float]:
    chosen = [row for seed in range(num_seeds) for row in choose(selector, num_survivors, seed)]
    return (np.bincount(chosen, minlength=6) / num_seeds).tolist()


@pytest.mark.parametrize("selector", [RandomSelector(), TournamentSelector(size=1)])
def test_random_selection_gives_every_member_the_same_chance(selector: Selector) -> None:
    assert frequencies(selector, 2) == pytest.approx([1 / 3] * 6, abs=0.05)  # five standard deviations


@given(st.integers(1, 6), st.integers(6, 9), st.integers(0, 99))
def test_a_tournament_of_all_is_greedy(num_survivors: int, size: int, seed: int) -> None:
    greedy = choose(GreedySelector(), num_survivors, seed)
    assert choose(TournamentSelector(size=size), num_survivors, seed) == greedy


def test_a_tournament_of_two_is_won_as_often_as_combinatorics_say() -> None:
    # The member of rank r (0 = best) of 6 wins when the other entrant is one of the 5 - r worse: (5 - r) / 15.
    ranks = [5, 0, 3, 1, 2, 4]
    assert frequencies(TournamentSelector(size=2), 1) == pytest.approx([(5 - r) / 15 for r in ranks], abs=0.05)


@given(st.integers(1, 6), st.integers(0, 6), st.integers(0, 99))
def test_the_oldest_never_survive_while_enough_others_are_there(
    num_survivors: int, num_retired: int, seed: int
) -> None:
    chosen = choose(AgeSelector(num_retired=num_retired, size=2), num_survivors, seed)
    assert min(chosen) >= min(num_retired, 6 - num_survivors)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_age_without_retirement_is_the_tournament(num_survivors: int, size: int, seed: int) -> None:
    age = AgeSelector(num_retired=0, size=size)
    assert choose(age, num_survivors, seed) == choose(TournamentSelector(size=size), num_survivors, seed)


def test_age_retires_even_the_best() -> None:
    selector = AgeSelector(num_retired=2, size=6)
    assert choose(selector, 1, 0) == [3]


@pytest.mark.parametrize("make", [lambda: TournamentSelector(size=0), lambda: AgeSelector(size=0)])
def test_a_tournament_without_entrants_is_an_error(make: type[Selector]) -> None:
    with pytest.raises(ConfigError, match="size: expected at least 1"):
        make()


def test_a_negative_number_of_retired_is_an_error() -> None:
    with pytest.raises(ConfigError, match="num_retired: expected a number >= 0, got -1"):
        AgeSelector(num_retired=-1)
