"""What every strategy promises. A new one is tested here merely by being registered.

So is the one that ``CONTRIBUTING.md`` shows, as it stands there.
"""

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from graftwork.errors import ConfigError
from graftwork.evolution import Plan, Population, SearchState, search
from graftwork.evolution.mutation import R2RMutation
from graftwork.evolution.selection import GreedySelector
from graftwork.evolution.strategies import STRATEGIES, Strategy, make_strategy
from graftwork.networks.genome import Genome, seed_genome, training_flops
from graftwork.training import Evaluation
from tests.contributing import blocks, registered, run
from tests.evolution.test_loop import Scorer, Trainer

SEED = seed_genome("poster", (1, 8, 8), 3)


def the_one_of_contributing() -> Mapping[str, Callable[..., Strategy]]:
    name, kind = registered("A search strategy")
    (block,) = blocks("A search strategy")
    found = run(block)[kind]
    assert isinstance(found, type)
    return {name: found}


KNOWN: Mapping[str, Callable[..., Strategy]] = {**STRATEGIES, **the_one_of_contributing()}
every_strategy = pytest.mark.parametrize("name", sorted(KNOWN))


def made(name: str) -> Strategy:
    return KNOWN[name](selector=GreedySelector(), mutate=R2RMutation())


def begun(strategy: Strategy, size: int = 4) -> SearchState:
    """A search in its second round."""
    population = Population()
    population.add_seed(SEED, generator=torch.Generator().manual_seed(0))
    state = SearchState(population, np.random.default_rng(0), generation=1)
    state.report = strategy.propose(state, size)
    return state


def stored(strategy: Strategy) -> dict[str, Any]:
    """The state as a checkpoint gives it back: tensors apart, the rest through JSON."""
    own = strategy.state_dict()
    tensors = {name: value.clone() for name, value in own.items() if isinstance(value, torch.Tensor)}
    return json.loads(json.dumps({k: v for k, v in own.items() if k not in tensors})) | tensors


@every_strategy
def test_draws_are_living_members_or_genomes_over_blocks_of_the_bank(name: str) -> None:
    strategy = made(name)
    state = begun(strategy)
    for count in (1, 3, 7):
        drawn = strategy.draw(state, count)
        assert len(drawn) == count
        for entry in drawn:
            ids = entry.ids if isinstance(entry, Genome) else state.population[entry].genome.ids
            assert all(block in state.population.bank for block in ids)


@every_strategy
@pytest.mark.parametrize("count", [1, 2, 9])
def test_survivors_are_distinct_living_members_as_many_as_asked_for(name: str, count: int) -> None:
    strategy = made(name)
    state = begun(strategy)
    size = len(state.population)
    predicted = np.random.default_rng(1).integers(0, 3, (size, 20))
    chosen = strategy.survivors(state, Evaluation(predicted, np.zeros(20, np.int64), 0), count)
    assert len(set(chosen)) == len(chosen) == min(count, size)
    assert set(chosen) <= set(state.population.members)


@every_strategy
def test_proposing_reaches_the_size_or_records_why_not(name: str) -> None:
    strategy = made(name)
    state = begun(strategy, size=5)
    assert len(state.population) == 5 or state.report.saturated
    assert set(state.report.born) <= set(state.population.members)


@every_strategy
def test_a_strategy_that_is_stored_and_loaded_makes_the_same_choices(name: str) -> None:
    strategy = made(name)
    state = begun(strategy)
    strategy.draw(state, 3)
    other, again = made(name), copy.deepcopy(state.rng)
    other.load_state_dict(stored(strategy))
    first = list(strategy.draw(state, 8))
    state.rng = again
    assert list(other.draw(state, 8)) == first


@every_strategy
def test_a_search_runs_to_its_end_and_equal_seeds_are_equal(name: str) -> None:
    ended = []
    for _ in range(2):
        population = Population()
        population.add_seed(SEED, generator=torch.Generator().manual_seed(0))
        state, trainer = SearchState(population, np.random.default_rng(0)), Trainer()
        parts: dict[str, Any] = {"strategy": made(name), "trainer": trainer, "scorer": Scorer(), "plan": Plan(2, 3, 5)}
        rounds = list(search(state, num_survivors=2, population_size=4, **parts))
        ended.append(([r.survivors for r in rounds], trainer.trained, population.bank.digest()))
        assert [r.number for r in rounds] == [0, 1, 2]
        assert state.step == 13
    assert ended[0] == ended[1]


def test_an_unknown_strategy_or_option_is_refused_by_name() -> None:
    parts: dict[str, Any] = {"selector": GreedySelector(), "mutate": R2RMutation()}
    with pytest.raises(ConfigError, match=r"neuroevolutoin.*did you mean 'neuroevolution'"):
        make_strategy("neuroevolutoin", **parts)
    with pytest.raises(ConfigError, match=r"neuroevolution.*temperature"):
        make_strategy("neuroevolution", temperature=1, **parts)


class Samples:
    """Draws genomes that are not in the population, as a controller that samples sub-networks does."""

    def __init__(self) -> None:
        self._poster = made("neuroevolution")
        self.survivors, self.propose = self._poster.survivors, self._poster.propose
        self.state_dict, self.load_state_dict = self._poster.state_dict, self._poster.load_state_dict

    def draw(self, state: SearchState, count: int) -> list[Genome]:
        return [SEED] * count


def test_a_genome_outside_the_population_is_trained_and_paid_for() -> None:
    population = Population()
    population.add_seed(SEED, generator=torch.Generator().manual_seed(0))
    state, trainer = SearchState(population, np.random.default_rng(0)), Trainer()
    parts: dict[str, Any] = {"strategy": Samples(), "trainer": trainer, "scorer": Scorer(), "plan": Plan(1, 2, 2)}
    list(search(state, num_survivors=1, population_size=3, **parts))
    assert trainer.trained == [SEED] * 4
    assert state.training_flops == 4 * training_flops(SEED, Trainer.batch_size)
