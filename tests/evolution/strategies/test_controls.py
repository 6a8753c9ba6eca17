"""The two controls: random networks that share nothing, and one network that only grows."""

from itertools import pairwise

import numpy as np
import torch

from graftwork.evolution import Plan, Population, Round, SearchState
from graftwork.evolution.mutation import R2RMutation
from graftwork.evolution.selection import GreedySelector
from graftwork.evolution.strategies import GrowOnly, RandomSearch
from graftwork.networks.genome import Head, Stem, num_parameters
from graftwork.typing import BlockId
from tests.evolution.strategies.test_strategy_contract import SEED, ran
from tests.evolution.test_loop import Scorer
from tests.strategies import random_images


def random_search() -> RandomSearch:
    return RandomSearch(selector=GreedySelector(), mutate=R2RMutation())


def test_random_networks_share_nothing_and_half_of_them_go_after_each_round() -> None:
    state, _, rounds = ran(random_search(), Plan(3, 4, 4), survivors=4, size=8)
    assert [len(r.members) for r in rounds] == [8, 4, 2, 1]
    assert [len(r.births) for r in rounds] == [8, 0, 0, 0]
    ids = [block for birth in state.population.lineage for block in birth.genome.ids]
    assert len(ids) == len(set(ids))
    assert {birth.parent for birth in state.population.lineage} == {None}
    assert len({num_parameters(birth.genome) for birth in state.population.lineage}) > 3


def test_random_networks_begin_with_the_seeds_stem_and_new_weights_elsewhere() -> None:
    stem = Stem("whiten", BlockId("stem"), 4, 3)
    seed = SEED.replace(stem=stem, head=Head("linear", hidden_features=0, pooling="avg"))
    population, generator = Population(), torch.Generator().manual_seed(0)
    population.add_seed(seed, generator=generator, images=random_images(seed, 16, generator))
    state = SearchState(population, np.random.default_rng(0))
    random_search().propose(state, Round(4, rounds_after=1, steps=None, flops=None, scorer=Scorer()))
    (first, *others), bank = population, population.bank
    assert len(others) == 3
    for member in others:
        own, its = bank[seed.stem.id], bank[member.genome.stem.id]
        assert all(torch.equal(own[name], its[name]) for name in own)
        assert not its["filter"].requires_grad
        assert not torch.equal(bank[first.genome.head.id]["weight"], bank[member.genome.head.id]["weight"])


def test_one_network_grows_by_one_graft_in_each_round_and_keeps_all_its_blocks() -> None:
    state, trainer, rounds = ran(GrowOnly(mutate=R2RMutation()), Plan(4, 3, 2), survivors=1, size=1)
    assert [r.members for r in rounds] == [("m0",), ("m1",), ("m2",), ("m3",), ("m4",)]
    genomes = [birth.genome for birth in state.population.lineage]
    assert all(set(before.ids) < set(after.ids) for before, after in pairwise(genomes))
    assert trainer.trained == [genomes[0]] * 3 + [genome for genome in genomes[1:] for _ in range(2)]


def test_a_network_that_may_not_grow_trains_on() -> None:
    _, trainer, rounds = ran(GrowOnly(mutate=R2RMutation(max_parameters=1)), Plan(2, 1, 2), survivors=1, size=1)
    assert trainer.trained == [SEED] * 5
    assert [(r.report.saturated, r.report.rejected) for r in rounds[1:]] == [(True, {"max_parameters": 100})] * 2
