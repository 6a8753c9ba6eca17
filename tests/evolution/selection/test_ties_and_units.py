"""Choices against their definitions, and what they must not depend on."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graftwork.evolution.selection import (
    AgeSelector,
    CoevolutionSelector,
    GreedySelector,
    ParetoSelector,
    Selector,
    TournamentSelector,
)

NUM_EXAMPLES = 60


@st.composite
def fronts(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Correct examples and costs of members that all stand on the front, in any order."""
    size = draw(st.integers(4, 8))
    values = st.lists(st.integers(1, NUM_EXAMPLES), min_size=size, max_size=size, unique=True).map(sorted)
    counts, costs = draw(values), draw(values)
    order = draw(st.permutations(range(size)))
    return [counts[row] for row in order], [costs[row] for row in order]


def chosen(selector: Selector, counts: list[int], costs: list[float]) -> list[int]:
    correct = np.arange(NUM_EXAMPLES) < np.array(counts)[:, None]
    return selector.select(correct, np.array(costs, float), len(counts), np.random.default_rng(0)).tolist()


def thinned(counts: list[int], costs: list[int]) -> list[int] | None:
    """The order of choice by definition, exactly; ``None`` where two members are equally crowded."""
    widths = max(counts) - min(counts), max(costs) - min(costs)
    left, last = sorted(range(len(counts)), key=lambda row: -counts[row]), []
    while len(left) > 2:
        crowded = {
            row: Fraction(counts[before] - counts[after], widths[0]) + Fraction(costs[before] - costs[after], widths[1])
            for before, row, after in zip(left, left[1:], left[2:], strict=False)
        }
        nearest = min(crowded.values())
        if list(crowded.values()).count(nearest) > 1:
            return None
        worst = next(row for row, gap in crowded.items() if gap == nearest)
        left.remove(worst)
        last.insert(0, worst)
    return left + last


@settings(max_examples=60)
@given(fronts(), st.sampled_from([2**-20, 1, 2**30]))
def test_of_a_front_the_member_with_the_nearest_neighbours_goes_first_in_any_unit_of_cost(
    front: tuple[list[int], list[int]], unit: float
) -> None:
    counts, costs = front
    expected = thinned(counts, costs)
    assume(expected is not None)
    assert chosen(ParetoSelector(), counts, [unit * cost for cost in costs]) == expected


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.5, 2.7]))
def test_every_choice_under_a_fractional_power_is_the_best_by_the_written_formula(seed: int, power: float) -> None:
    rng = np.random.default_rng(seed)
    correct = rng.random((6, 40)) < rng.uniform(0.3, 0.9, (6, 1))
    hits = np.zeros(40)
    rows = CoevolutionSelector(power=power).select(correct, np.ones(6), 6, rng).tolist()
    for number, row in enumerate(rows):
        scores = {other: float((correct[other] * (1 + hits) ** -power).sum()) for other in rows[number:]}
        assert scores[row] >= max(scores.values()) - 1e-9
        hits += correct[row]


@pytest.mark.parametrize("size", [5, 17, 60])
def test_equal_members_are_chosen_in_order_of_birth_in_populations_of_any_size(size: int) -> None:
    """A sort may be stable for a few members only."""
    counts = [row * 7 % 3 for row in range(size)]
    expected = sorted(range(size), key=lambda row: (-counts[row], row))
    for selector in (GreedySelector(), CoevolutionSelector(power=0), TournamentSelector(size=size)):
        assert chosen(selector, counts, [1.0] * size) == expected
    assert chosen(ParetoSelector(), [7] * size, [1.0] * size) == list(range(size))


def test_selectors_do_what_their_sources_do_unless_told_otherwise() -> None:
    """The report squares hits; the eldest dies; a tournament is more than a lot and less than greed."""
    assert CoevolutionSelector() == CoevolutionSelector(power=2)
    assert AgeSelector() == AgeSelector(num_retired=1, size=3)
    assert TournamentSelector() == TournamentSelector(size=3)
