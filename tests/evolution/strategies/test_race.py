"""Racing: who trains together, which graft wins, and when nothing is added any more."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from graftwork.evolution import Plan, Population, Round, SearchState
from graftwork.evolution.mutation import R2RMutation
from graftwork.evolution.strategies import Race
from graftwork.evolution.transforms import R2RWiden
from graftwork.networks.genome import forward_flops
from graftwork.training import Evaluation
from graftwork.typing import MemberId
from tests.evolution.strategies.test_strategy_contract import SEED, ran
from tests.evolution.test_loop import STEP, Scorer

NUM_EXAMPLES = 50


def said(*likelihoods: float, spread: float = 0.0) -> Evaluation:
    """What members say that differ by their mean log-likelihood; ``spread`` is the noise between the examples."""
    noise = spread * np.random.default_rng(0).standard_normal((len(likelihoods), NUM_EXAMPLES))
    noise -= noise.mean(axis=1, keepdims=True)
    values = (np.array(likelihoods)[:, None] + noise).astype(np.float32)
    return Evaluation(
        np.zeros((len(likelihoods), NUM_EXAMPLES), np.int64), np.zeros(NUM_EXAMPLES, np.int64), 0, "accuracy", values
    )


def raced(*hidden: int, **options: Any) -> tuple[Race, SearchState, list[float]]:
    """A race of grafts of some widths that has begun at a log-likelihood of -1; and what each entrant costs."""
    population = Population()
    population.add_seed(SEED, generator=torch.Generator().manual_seed(0))
    state, strategy = SearchState(population, np.random.default_rng(0)), Race(mutate=R2RMutation(), **options)
    assert strategy.survivors(state, said(-1.0), 3) == ("m0",)
    for width in hidden:
        growth = R2RWiden(0, 3, width)(SEED, rng=state.rng)
        population.graft(MemberId("m0"), growth, generator=torch.Generator().manual_seed(0), generation=1)
    state.generation = 1
    cost = [forward_flops(genome) / forward_flops(SEED) for genome in population.genomes]
    return strategy, state, cost


def proposed(strategy: Race, state: SearchState, rounds_after: int = 5) -> int:
    return len(
        strategy.propose(state, Round(4, rounds_after=rounds_after, steps=None, flops=None, scorer=Scorer())).born
    )


def test_all_entrants_train_on_the_same_batches_and_the_champion_alone_before() -> None:
    widths = []

    class Counting(Race):
        def draw(self, state: SearchState, count: int) -> Any:
            found = super().draw(state, count)
            widths.extend((state.generation, len(drawn) if isinstance(drawn, tuple) else 1) for drawn in found)
            return found

    _, _, rounds = ran(Counting(mutate=R2RMutation()), Plan(2, 3, 2), survivors=3, size=6)
    assert sorted(set(widths)) == [(0, 1), (1, 6), (2, 3)]
    assert rounds[-1].step == 7
    assert {birth.parent for birth in rounds[1].births} == {"m0"}


def test_the_champion_and_the_better_half_go_on_and_then_one_is_left() -> None:
    strategy, state, _ = raced(8, 8, 8, 8, 8)
    first = strategy.survivors(state, said(-0.9, -0.8, -0.5, -0.9, -0.3, -0.7), 4)
    assert first == ("m0", "m2", "m4", "m5")
    state.population.keep(first)
    assert proposed(strategy, state) == 0  # the race goes on
    second = strategy.survivors(state, said(-0.8, -0.6, -0.1, -0.7), 4)
    assert second == ("m0", "m2", "m4")
    state.population.keep(second)
    assert strategy.survivors(state, said(-0.8, -0.7, -0.1), 4) == ("m4",)


@pytest.mark.parametrize("part", [0.98, 1.02])
def test_a_graft_wins_where_it_gains_more_for_its_flops_than_the_champion(part: float) -> None:
    """The border is κ·r = 1, where the graft's gain is as many times the champion's as its cost."""
    strategy, state, cost = raced(64)
    assert cost[1] > 1.5
    gain = 0.2
    winner = strategy.survivors(state, said(-1 + gain, -1 + part * gain * cost[1]), 3)
    assert winner == (("m1",) if part > 1 else ("m0",))


def test_of_equal_gains_the_cheaper_graft_wins_and_what_makes_things_worse_never_does() -> None:
    strategy, state, _ = raced(64, 8)
    assert strategy.survivors(state, said(-1.0, -0.5, -0.5), 3) == ("m2",)
    strategy, state, _ = raced(64)
    assert strategy.survivors(state, said(-2.0, -1.5), 3) == ("m0",)


def test_a_lead_within_the_noise_adds_nothing() -> None:
    for spread, winner in ((0.01, "m1"), (5.0, "m0")):
        strategy, state, _ = raced(8)
        assert strategy.survivors(state, said(-0.9, -0.6, spread=spread), 3) == (winner,)


def test_after_a_lost_race_the_champion_rests_and_after_two_nothing_is_added_any_more() -> None:
    strategy, state, _ = raced(8)
    for lost in (1, 2):
        state.population.keep(strategy.survivors(state, said(*[-0.9] * len(state.population)), 1))
        assert proposed(strategy, state) == 0
        strategy.survivors(state, said(-0.8), 3)
        assert proposed(strategy, state) == (3 if lost == 1 else 0)
    assert len(state.population) == 1


def test_a_won_race_is_followed_by_the_next_one_from_where_the_winner_is() -> None:
    strategy, state, _ = raced(8)
    state.population.keep(strategy.survivors(state, said(-0.9, -0.2), 3))
    assert strategy.state_dict()["start"].mean() == pytest.approx(-0.2)
    assert proposed(strategy, state) == 3
    assert {birth.parent for birth in state.population.lineage[-3:]} == {"m1"}


def test_a_race_that_is_stored_and_loaded_has_the_same_start_and_memory() -> None:
    """By a start of 0 the dearer graft would win, which gains more but not for its FLOPs."""
    for lost in (False, True):
        strategy, state, _ = raced(64, 8)
        if lost:
            strategy.survivors(state, said(-1.0, -2.0, -2.0), 1)
        again = Race(mutate=R2RMutation())
        again.load_state_dict(strategy.state_dict())
        found = [again.survivors(state, said(-0.9, -0.5, -0.52), 1), again.state_dict()["lost"]]
        assert found == [("m2",), 0]
        again.load_state_dict(strategy.state_dict())
        state.population.keep(["m0"])  # type: ignore[list-item]
        assert proposed(again, state) == (0 if lost else 3)  # it rests


def test_a_rung_takes_a_fifth_of_its_round_and_the_rest_trains_what_is_left() -> None:
    for plan in (Plan(4, 40, 40), Plan(4, flops=1000 * STEP, initial_fraction=0.2)):
        _, trainer, rounds = ran(Race(mutate=R2RMutation()), plan, survivors=3, size=6)
        spent = [r.training_flops for r in rounds]
        parts = [after - before for before, after in pairwise([0, *spent])]
        steps = [after.step - before.step for before, after in pairwise(rounds)]
        if plan.flops is None:
            assert steps[:2] == [8, 15]  # of 40, and of 40 and the 32 that were left
            assert rounds[-1].step == 200  # nothing is lost
        else:
            assert 30 * STEP < parts[1] < 50 * STEP < parts[2] < 90 * STEP
            assert spent[-1] > 950 * STEP
        assert len(trainer.trained) == rounds[-1].step


def test_scoring_entrants_takes_a_quarter_of_a_round_at_most() -> None:
    class Dear(Scorer):
        def flops(self, genomes: Any) -> int:
            return STEP * len(genomes)

    for flops, entrants in ((7 * STEP, 1), (12 * STEP, 3), (99 * STEP, 4)):
        strategy, state, _ = raced()
        strategy.propose(state, Round(4, rounds_after=5, steps=None, flops=flops, scorer=Dear()))
        assert len(state.population) == entrants


def test_no_race_begins_in_the_last_round() -> None:
    strategy, state, _ = raced()
    assert proposed(strategy, state, rounds_after=0) == 0
    assert proposed(strategy, state, rounds_after=1) == 3
