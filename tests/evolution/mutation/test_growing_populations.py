"""Who gets children, which children are kept, and when a round gives up."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import cycle

import numpy as np
import pytest
import scipy.stats
import torch

from graftwork.evolution import Population
from graftwork.evolution.mutation import R2RMutation
from graftwork.evolution.transforms import Growth, R2RWiden
from graftwork.networks.genome import Block, Genome, Head, Layer, forward_flops, num_parameters
from graftwork.typing import BlockId

# One layer, so that every widening by 3×3 gives a child of the same size.
GENOME = Genome(
    (2, 4, 4), 2, (Layer(3, (Block(BlockId("a"), 1, 2, 0, 3),)),), head=Head("linear", hidden_features=0, pooling="avg")
)
ONE_WAY = {"deepen_probability": 0.0, "kernel_probabilities": (0.0, 1.0, 0.0)}
CHANCE = 1e-9
"""Probability that a right mutation leaves the bounds of one count."""


def seeded() -> Population:
    population = Population()
    population.add_seed(GENOME, generator=torch.Generator().manual_seed(0))
    return population


def child_of_the_seed() -> Genome:
    return R2RWiden(0, 3)(GENOME, rng=np.random.default_rng(0)).child


@pytest.mark.parametrize("size", [2, 4])
def test_every_living_member_is_as_likely_to_be_the_parent_of_the_next(size: int) -> None:
    """Newborn ones of the round too: the last child of a round may have any member but itself as its parent."""
    population, rng, mutate = seeded(), np.random.default_rng(0), R2RMutation()
    ranks: Counter[int] = Counter()
    rounds = 120
    for _ in range(rounds):
        report = mutate(population, size + 1, rng=rng, generation=1)
        assert len(report.born) == size
        living = list(population.members)
        ranks[living.index(population.birth(living[-1]).parent)] += 1  # type: ignore[arg-type]
        population.keep(living[:1])
    low, high = scipy.stats.binom.interval(1 - CHANCE, rounds, 1 / size)
    assert set(ranks) == set(range(size))
    assert all(low <= count <= high for count in ranks.values())


def test_every_survivor_gets_children() -> None:
    population, rng, mutate = seeded(), np.random.default_rng(0), R2RMutation()
    survivors = ["m0", *mutate(population, 6, rng=rng, generation=1).born]
    parents: Counter[str | None] = Counter()
    rounds = 150
    for _ in range(rounds):
        (born,) = mutate(population, 7, rng=rng, generation=2).born
        parents[population.birth(born).parent] += 1
        population.keep([member for member in population.members if member != born])
    low, high = scipy.stats.binom.interval(1 - CHANCE, rounds, 1 / 6)
    assert set(parents) == set(survivors)
    assert all(low <= count <= high for count in parents.values())


def test_a_child_that_shares_exactly_the_threshold_is_rejected_and_the_next_smaller_threshold_keeps_it() -> None:
    ratio = num_parameters(GENOME) / num_parameters(child_of_the_seed())
    assert 0 < ratio < 1
    for threshold, full in ((ratio, False), (math.nextafter(ratio, 0), True), (1.0, False), (0.0, True)):
        population = seeded()
        mutate = R2RMutation(**ONE_WAY, min_shared_fraction=threshold, max_rejections=7)  # type: ignore[arg-type]
        report = mutate(population, 2, rng=np.random.default_rng(0), generation=1)
        assert len(population) == 1 + full
        assert report.saturated != full
        assert report.rejected == ({} if full else {"min_shared_fraction": 7})


@pytest.mark.parametrize(("name", "cost"), [("max_parameters", num_parameters), ("max_flops", forward_flops)])
def test_a_child_may_cost_as_much_as_the_limit_and_no_more(name: str, cost: Callable[[Genome], int]) -> None:
    limit = cost(child_of_the_seed())
    for most, full in ((limit, True), (limit - 1, False)):
        population = seeded()
        mutate = R2RMutation(**ONE_WAY, **{name: most}, max_rejections=5)  # type: ignore[arg-type]
        report = mutate(population, 2, rng=np.random.default_rng(0), generation=1)
        assert report.saturated != full
        assert report.rejected == ({} if full else {name: 5})


@pytest.mark.parametrize(("patience", "full"), [(2, False), (3, True)])
def test_a_round_gives_up_after_rejections_in_a_row_not_in_all(
    patience: int, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three draws are rejected: with patience for three in a row the population fills up nevertheless."""
    answers = cycle(["first", "second", None])
    monkeypatch.setattr(R2RMutation, "broken_limit", lambda *_: next(answers))
    population = seeded()
    report = R2RMutation(max_rejections=patience)(population, 6, rng=np.random.default_rng(0), generation=1)
    assert (len(population), report.saturated) == ((6, False) if full else (1, True))
    assert report.rejected == ({"first": 5, "second": 5} if full else {"first": 1, "second": 1})


def test_children_are_born_in_the_generation_they_are_made_in() -> None:
    population, rng = seeded(), np.random.default_rng(0)
    R2RMutation()(population, 3, rng=rng, generation=4)
    R2RMutation()(population, 5, rng=rng, generation=9)
    assert [birth.generation for birth in population.lineage] == [0, 4, 4, 9, 9]


def test_children_that_grow_alike_begin_with_different_weights() -> None:
    population = seeded()
    R2RMutation(**ONE_WAY)(population, 5, rng=np.random.default_rng(0), generation=1)  # type: ignore[arg-type]
    new = [entry["filter"] for name, entry in ((i, population.bank[i]) for i in population.bank) if "k3-" in name]
    assert len(new) == 4
    assert not any(torch.equal(one, other) for i, one in enumerate(new) for other in new[:i])


@pytest.mark.parametrize("deepen", [0.0, 1.0])
def test_noise_and_random_padding_reach_every_kind_of_growth(deepen: float) -> None:
    def grown(**options: float) -> Growth:
        rng = np.random.default_rng(0)
        return R2RMutation(deepen_probability=deepen, **options).draw(GENOME, rng=rng)(GENOME, rng=rng)  # type: ignore[arg-type]

    assert (grown().noise, grown().initialisation, grown().preserves) == (0.0, "twin", True)
    assert (grown(noise=0.25).noise, grown(noise=0.25).preserves) == (0.25, False)
    assert (grown(random_padding=True).initialisation, grown(random_padding=True).preserves) == ("random", False)
