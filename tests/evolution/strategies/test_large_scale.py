"""Large-scale evolution: who dies, who has children, what they inherit, and what trains."""

from typing import Any

import numpy as np
import pytest
import torch

from graftwork.evolution import Plan, Population, Round, SearchState
from graftwork.evolution.mutation import MutationReport, R2RMutation
from graftwork.evolution.strategies import LargeScaleEvolution
from graftwork.evolution.strategies._large_scale import MUTATIONS, Change
from graftwork.networks.genome import Genome, seed_genome
from graftwork.training import Evaluation
from graftwork.typing import MemberId
from tests.evolution.strategies.test_strategy_contract import SEED, ran
from tests.evolution.test_loop import Scorer

BASE = seed_genome("base", (1, 8, 8), 3)


def strategy(**limits: Any) -> LargeScaleEvolution:
    return LargeScaleEvolution(mutate=R2RMutation(**limits))


def mutated(name: str, genome: Genome = BASE, seed: int = 0) -> Any:
    return MUTATIONS[name](genome, np.random.default_rng(seed), 1.0)


def population_of(count: int) -> SearchState:
    population = Population()
    population.add_seed(SEED, generator=torch.Generator().manual_seed(0))
    for _ in range(count - 1):
        population.adopt(SEED, parent=None, transform="seed")
    return SearchState(population, np.random.default_rng(0), generation=1)


def evaluation(*right: int) -> Evaluation:
    predicted = np.array([[0] * count + [1] * (10 - count) for count in right])
    return Evaluation(predicted, np.zeros(10, np.int64), 0)


def test_the_worse_of_two_dies_so_the_best_always_lives_and_winners_are_parents() -> None:
    for seed in range(20):
        state, chooser = population_of(4), strategy()
        state.rng = np.random.default_rng(seed)
        alive = chooser.survivors(state, evaluation(3, 9, 1, 5), 2)
        assert alive[0] == "m1"
        parents = chooser.state_dict()["parents"]
        assert len(parents) == 2
        assert set(parents) <= set(alive) - {"m2"}  # the worst wins against nobody
        assert chooser.survivors(state, evaluation(3, 9, 1, 5), 1) == ("m1",)


def test_of_equals_the_younger_dies() -> None:
    assert strategy().survivors(population_of(5), evaluation(4, 4, 4, 4, 4), 1) == ("m0",)


def test_winners_have_the_children_and_only_children_train() -> None:
    state, trainer, rounds = ran(strategy(), Plan(3, 2, 12), survivors=3, size=6)
    for r in rounds[1:]:
        born = [birth for birth in state.population.lineage if birth.generation == r.number]
        assert len(born) == (5 if r.number == 1 else 3)
        trained = trainer.trained[r.step - 12 : r.step]
        assert {genome.id for genome in trained} <= {birth.genome.id for birth in born}
    assert {birth.parent for birth in state.population.lineage if birth.generation == 2} <= set(rounds[1].survivors)


def test_a_child_begins_with_copies_of_its_parents_weights_and_shares_nothing() -> None:
    state, chooser = population_of(1), strategy()
    state.report = MutationReport((), {}, saturated=False)
    bank = state.population.bank
    digest = {key: value.clone() for key, value in bank.state().items()}
    child = chooser._bear(state, MemberId("m0"), mutated("insert-convolution", SEED))
    own = state.population[child].genome
    assert not set(own.ids) & set(SEED.ids)
    assert torch.equal(bank[own.head.id]["weight"], bank[SEED.head.id]["weight"])
    assert bank[own.head.id]["weight"] is not bank[SEED.head.id]["weight"]
    assert all(torch.equal(value, bank.state()[key]) for key, value in digest.items())
    images = torch.randn(4, *SEED.input_shape)
    parent, grown = state.population[MemberId("m0")], state.population[child]
    assert torch.allclose(parent(images), grown(images), atol=1e-5)  # a new layer begins as the identity


def test_what_changes_its_shape_begins_again_and_so_does_everything_after_a_reset() -> None:
    state, chooser = population_of(1), strategy()
    bank, parent = state.population.bank, MemberId("m0")
    for name, kept in (("filter-size", 3), ("alter-number-of-channels", 3), ("reset-weights", 0), ("identity", 4)):
        own = state.population[chooser._bear(state, parent, mutated(name, SEED))].genome
        pairs = [(bank[new], bank[old]) for new, old in zip(own.ids, SEED.ids, strict=True)]
        shared = [all(torch.equal(a[k], b[k]) for k in b if k not in ("bias", "norm_weight")) for a, b in pairs
                  if all(a[k].shape == b[k].shape for k in b)]  # fmt: skip
        assert sum(shared) == kept, name


def test_removing_the_last_layer_of_a_width_gives_readers_of_another_shape_new_weights() -> None:
    smaller = next(
        change.genome
        for seed in range(40)
        if len((change := mutated("remove-convolution", SEED, seed)).genome.layers) < 3
    )
    state, chooser = population_of(1), strategy()
    child = state.population[chooser._bear(state, MemberId("m0"), Change(smaller, "removed"))]
    assert child(torch.randn(2, *SEED.input_shape)).shape == (2, 3)


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_makes_a_network_that_exists_and_the_numbers_stay_between_half_and_twice(name: str) -> None:
    seen = set()
    for seed in range(25):
        change = mutated(name, seed=seed)
        seen.add(change.genome)
        assert 0.5 <= change.rate <= 2
        old = {block.id: block for block in BASE.blocks()}
        new = [block for block in change.genome.blocks() if block.id not in old]
        if name == "alter-number-of-channels":
            (block,) = new
            (gone,) = [b for b in BASE.blocks() if b.id not in change.genome.ids]
            assert gone.hidden_channels / 2 <= block.hidden_channels <= 2 * gone.hidden_channels
        assert len(new) == (name in ("insert-convolution", "widen", "alter-number-of-channels", "filter-size"))
    assert len(seen) == 1 if name in ("alter-learning-rate", "identity", "reset-weights") else len(seen) > 3


def test_rates_are_inherited_multiplied_and_forgotten_with_their_members() -> None:
    state, chooser = population_of(1), strategy()
    state.rates = {MemberId("m0"): 0.5, MemberId("gone"): 3.0}
    change = mutated("alter-learning-rate", SEED)
    child = chooser._bear(state, MemberId("m0"), change)
    assert state.rates[child] == 0.5 * change.rate
    chooser.propose(state, Round(2, rounds_after=1, steps=None, flops=None, scorer=Scorer()))
    assert set(state.rates) == {"m0", child}
