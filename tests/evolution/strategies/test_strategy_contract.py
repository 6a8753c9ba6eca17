"""What every strategy promises. A new one is tested here merely by being registered.

So is the one that ``CONTRIBUTING.md`` shows, as it stands there.
"""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftwork.errors import ConfigError
from graftwork.evolution import Generation, Plan, Population, Round, SearchState, search
from graftwork.evolution.mutation import R2RMutation
from graftwork.evolution.selection import GreedySelector
from graftwork.evolution.strategies import STRATEGIES, Strategy, ignored_options, make_strategy
from graftwork.networks import bind
from graftwork.networks.execution import shared_flops
from graftwork.networks.genome import Genome, num_parameters, seed_genome, training_flops
from graftwork.runs import RunFolder, pack_state
from graftwork.session import Problem, SearchConfig, prepare
from graftwork.session._following import restore
from graftwork.training import Evaluation
from graftwork.typing import MemberId
from tests.contributing import blocks, registered, run
from tests.evolution.test_loop import STEP, Scorer, Trainer

SEED = seed_genome("poster", (1, 8, 8), 3)


def the_one_of_contributing() -> Mapping[str, Callable[..., Strategy]]:
    name, kind = registered("A search strategy")
    (block,) = blocks("A search strategy")
    found = run(block)[kind]
    assert isinstance(found, type)
    return {name: found}


EXTRA = the_one_of_contributing()
every_strategy = pytest.mark.parametrize("name", sorted({**STRATEGIES, **EXTRA}))


def made(name: str, **limits: Any) -> Strategy:
    parts: dict[str, Any] = {"selector": GreedySelector(), "mutate": R2RMutation(**limits)}
    return EXTRA[name](**parts) if name in EXTRA else make_strategy(name, **parts)


def begun(seed: int = 0) -> SearchState:
    population = Population()
    population.add_seed(SEED, generator=torch.Generator().manual_seed(seed))
    return SearchState(population, np.random.default_rng(seed))


def ran(
    strategy: Strategy, plan: Plan, *, seed: int = 0, survivors: int = 2, size: int = 4, **options: Any
) -> tuple[SearchState, Trainer, list[Generation]]:
    """A search in which nothing is trained, and members are right on ever fewer examples."""
    state, trainer = begun(seed), Trainer()
    parts: dict[str, Any] = {"strategy": strategy, "trainer": trainer, "scorer": Scorer(), "plan": plan}
    numbers = {"num_survivors": survivors, "population_size": size}
    return state, trainer, list(search(state, **numbers, **parts, **options))


@every_strategy
def test_what_is_drawn_are_living_members_or_genomes_over_blocks_of_the_bank(name: str) -> None:
    seen = 0

    def look(state: SearchState, *_: Any) -> None:
        nonlocal seen
        again = copy.deepcopy(state.rng)
        for entry in (*strategy.draw(state, 1), *strategy.draw(state, 3)):
            seen += 1
            if isinstance(entry, Genome):
                bind(entry, state.population.bank)
            else:
                assert {*(entry if isinstance(entry, tuple) else (entry,))} <= set(state.population.members)
        state.rng = again

    strategy = made(name)
    ran(strategy, Plan(2, 2, 2), observer=look)
    assert seen >= 4 * 4  # none where a strategy ends a round


@every_strategy
@pytest.mark.parametrize(("survivors", "size"), [(1, 2), (2, 5), (5, 5)])
def test_no_round_has_more_members_or_survivors_than_asked_for(name: str, survivors: int, size: int) -> None:
    state, _, rounds = ran(made(name), Plan(3, 1, 3), survivors=survivors, size=size)
    assert [r.number for r in rounds] == [0, 1, 2, 3]
    for r in rounds:
        assert 1 <= len(r.members) <= size
        assert 1 <= len(r.survivors) <= min(survivors, len(r.members))
        assert len(set(r.survivors)) == len(r.survivors)
        assert set(r.survivors) <= set(r.members)
        assert set(r.report.born) <= {birth.id for birth in state.population.lineage}
    assert set(state.population.members) == set(rounds[-1].survivors)
    assert set(state.population.bank) == {i for genome in state.population.genomes for i in genome.ids}


@every_strategy
def test_a_strategy_that_is_stored_and_loaded_makes_the_same_choices(name: str) -> None:
    strategy, other = made(name), made(name)
    state, _, rounds = ran(strategy, Plan(2, 2, 2))
    own = strategy.state_dict()
    tensors = {key: value.clone() for key, value in own.items() if isinstance(value, torch.Tensor)}
    other.load_state_dict(json.loads(json.dumps({k: v for k, v in own.items() if k not in tensors})) | tensors)
    (again, _, _), found = ran(made(name), Plan(2, 2, 2)), []
    for chooser, where in ((strategy, state), (other, again)):
        where.generation, where.survivors = 2, rounds[-1].survivors
        chooser.propose(where, Round(4, rounds_after=1, steps=None, flops=None, scorer=Scorer()))
        drawn = list(chooser.draw(where, 8))
        predicted = np.random.default_rng(1).integers(0, 3, (len(where.population), 20))
        chosen = chooser.survivors(where, Evaluation(predicted, np.zeros(20, np.int64), 0), 2)
        found.append((drawn, chosen, where.population.bank.digest(), where.scoring_flops, where.rates))
    assert found[0] == found[1]


@every_strategy
def test_equal_seeds_are_equal_and_others_differ(name: str) -> None:
    found = []
    for seed in (0, 0, 1):
        state, trainer, rounds = ran(made(name), Plan(2, 3, 5), seed=seed)
        seen = (trainer.trained, [birth.genome for birth in state.population.lineage])
        found.append(([r.survivors for r in rounds], seen, state.population.bank.digest()))
        assert state.step == 13
    assert found[0] == found[1]
    assert found[0][1] != found[2][1]


@every_strategy
@pytest.mark.parametrize("flops", [97 * STEP, 150 * STEP + 12345])
def test_no_round_spends_more_than_the_plan_gives_it(name: str, flops: int) -> None:
    plan = Plan(3, flops=flops, initial_fraction=0.25)
    state, _, rounds = ran(made(name), plan)
    for r in rounds:
        assert r.training_flops + r.scoring_flops <= plan.flops_until(r.number)
    assert state.spent_flops > 0.6 * flops


class Dear(Scorer):
    """A scorer that takes 20 images through every network."""

    def evaluate(self, members: Any) -> Evaluation:
        return replace(super().evaluate(members), flops=self.flops([member.genome for member in members]))

    def flops(self, genomes: Any) -> int:
        return 20 * shared_flops(genomes)


@every_strategy
def test_where_scoring_is_dear_there_are_fewer_members_and_the_budget_is_kept(name: str) -> None:
    for flops in (90 * STEP, 200 * STEP):
        state, trainer = begun(), Trainer()
        parts: dict[str, Any] = {"strategy": made(name), "trainer": trainer, "scorer": Dear()}
        plan = Plan(3, flops=flops, initial_fraction=0.4)
        list(search(state, num_survivors=3, population_size=6, plan=plan, **parts))
        assert state.spent_flops <= flops
        assert trainer.trained


@every_strategy
def test_limits_hold_for_every_network_that_is_born_or_drawn(name: str) -> None:
    most = int(1.3 * num_parameters(SEED))
    state, trainer, _ = ran(made(name, max_parameters=most), Plan(3, 2, 10), size=6)
    seen = [*trainer.trained, *(birth.genome for birth in state.population.lineage)]
    assert max(map(num_parameters, seen)) <= most
    assert len(set(seen)) > 1 or name in ("neuroevolution", "family")  # a size that breaks a limit is not made


@every_strategy
def test_children_inherit_more_than_the_fraction_that_tau_asks_for(name: str) -> None:
    state, _, _ = ran(made(name, min_shared_fraction=0.8), Plan(4, 1, 2), size=6)
    grown = [birth for birth in state.population.lineage if birth.parent is not None]
    for birth in grown if "min_shared_fraction" not in OPTIONS[name] else ():
        parent = state.population.birth(birth.parent)  # type: ignore[arg-type]
        assert num_parameters(parent.genome) > 0.8 * num_parameters(birth.genome)


OPTIONS: Mapping[str, frozenset[str]] = {name: ignored_options(name) for name in STRATEGIES} | {
    name: frozenset() for name in EXTRA
}


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem.load(config_of("neuroevolution"))


def config_of(name: str, **changes: Any) -> SearchConfig:
    options: dict[str, Any] = {"data": "digits", "recipe": "paper", "budget": "12steps", "num_generations": 3}
    options |= {"population_size": 4, "num_survivors": 2, "batch_size": 8, "num_calibration": 20, "validation": 60}
    options |= {"precision": "float32", "passes": "torch", "threads": 1, "strategy": name}
    kept = {key: value for key, value in options.items() if key not in ignored_options(name)}
    return SearchConfig.from_dict({**kept, **changes})


class StoppedError(Exception):
    """The search was stopped in the middle."""


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_that_is_stored_in_a_run_and_resumed_ends_with_the_same_bits(
    name: str, problem: Problem, tmp_path: Path
) -> None:
    """Real training and scoring, through real checkpoints: after an update, and between two rounds."""
    config = config_of(name)
    whole = prepare(config, problem=problem)
    expected = list(search(whole.state, **whole.parts))
    folder = RunFolder.create(tmp_path / "run")

    def stop(state: SearchState, *_: Any) -> None:
        if state.step in (4, 8):  # in the middle of rounds
            raise StoppedError

    rounds: list[Generation] = []
    for stopping in (stop, stop, None):
        setup = prepare(config, problem=problem, plan=whole.plan, machine=whole.machine)
        if (found := folder.load_checkpoint("search")) is not None:
            restore(setup, *found)
        observe = None if stopping is None or setup.state.step == 8 else stopping
        try:
            rounds += search(setup.state, **setup.parts, observer=observe)
        except StoppedError:
            folder.save_checkpoint(
                "search", setup.state.step, *pack_state(setup.state, setup.trainer.optimizer, setup.strategy)
            )
    folder.release()
    assert setup.state.step == whole.state.step
    assert rounds[-1].survivors == expected[-1].survivors
    assert setup.population.bank.digest() == whole.population.bank.digest()
    assert setup.state.spent_flops == whole.state.spent_flops
    assert np.array_equal(rounds[-1].evaluation.predicted, expected[-1].evaluation.predicted)
    own, other = setup.strategy.state_dict(), whole.strategy.state_dict()
    assert own.keys() == other.keys()
    for key, value in own.items():  # what it learned, too
        assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key], key


def test_an_unknown_strategy_or_option_is_refused_by_name() -> None:
    parts: dict[str, Any] = {"selector": GreedySelector(), "mutate": R2RMutation()}
    with pytest.raises(ConfigError, match=r"neuroevolutoin.*did you mean 'neuroevolution'"):
        make_strategy("neuroevolutoin", **parts)
    with pytest.raises(ConfigError, match=r"neuroevolution.*temperature"):
        make_strategy("neuroevolution", temperature=1, **parts)


def test_options_that_a_strategy_has_no_use_for_are_refused_by_name() -> None:
    others = {"selection": "pareto", "selection_options": {"x": 1}, "cost": "parameters", "random_padding": True}
    others |= {"min_shared_fraction": 0.9, "population_size": 7, "num_survivors": 5, "deepen_probability": 0.1}
    others |= {"kernel_probabilities": [0.2, 0.2, 0.6], "concat_probability": 0.3, "hidden_multiple": 3.0, "workers": 2}
    others |= {"control": True}
    seen = 0
    for name in STRATEGIES:
        for option in sorted(ignored_options(name)):
            seen += 1
            given = {"strategy": name, option: others[option]}
            if option == "selection_options":
                continue  # only with a selection, which is refused
            with pytest.raises(ConfigError, match=rf"^{option}: expected none with strategy {name}, .*leave it out"):
                SearchConfig.from_dict(given)
    assert seen > 5


def test_numbers_that_suit_a_strategy_give_way_to_those_that_are_asked_for() -> None:
    recipe = SearchConfig.from_dict({"strategy": "random"}).recipe
    assert (recipe.population_size, recipe.num_generations, recipe.initial_fraction) == (8, 3, 0.25)
    asked = SearchConfig.from_dict({"strategy": "random", "recipe": {"name": "default", "population_size": 5}}).recipe
    assert (asked.population_size, asked.num_survivors) == (5, 4)
    stepped = SearchConfig.from_dict({"strategy": "random", "initial_steps": 7}).recipe
    assert (stepped.initial_steps, stepped.initial_fraction) == (7, None)
    for name in STRATEGIES:
        config = SearchConfig.from_dict({"strategy": name, "num_generations": 2})
        assert SearchConfig.from_dict(config.to_dict()) == config
        assert config.recipe.num_generations == 2


class Samples:
    """Draws genomes that are not in the population, as a controller that samples sub-networks does."""

    def __init__(self) -> None:
        self._poster = made("neuroevolution")
        self.survivors, self.propose = self._poster.survivors, self._poster.propose
        self.state_dict, self.load_state_dict = self._poster.state_dict, self._poster.load_state_dict

    def draw(self, state: SearchState, count: int) -> list[Genome]:
        return [SEED] * count


def test_a_genome_outside_the_population_is_trained_and_paid_for() -> None:
    state, trainer, _ = ran(Samples(), Plan(1, 2, 2), survivors=1, size=3)
    assert trainer.trained == [SEED] * 4
    assert state.training_flops == 4 * training_flops(SEED, Trainer.batch_size)


class Together(Samples):
    """Trains all members on the same batches, the seed at twice the rate."""

    def draw(self, state: SearchState, count: int) -> list[Any]:
        state.rates = {MemberId("m0"): 2.0}
        names = tuple(state.population.members)
        return [names if state.generation else names[0]] * count


def test_members_that_train_together_pay_for_a_shared_prefix_once_and_rates_reach_the_updates() -> None:
    updates = []

    class Listening(Trainer):
        def run(self, given: Any) -> Any:
            updates.extend(given)
            return super().run(given)

    state = begun()
    parts: dict[str, Any] = {"strategy": Together(), "trainer": Listening(), "scorer": Scorer(), "plan": Plan(1, 1, 1)}
    (first, second) = search(state, num_survivors=1, population_size=3, **parts)
    assert [len(update.members) for update in updates] == [1, 3]
    assert [update.rate for update in updates] == [2.0, 1.0]
    apart = sum(training_flops(birth.genome, 2) for birth in (*first.births, *second.births))
    assert STEP < second.training_flops - first.training_flops < apart
