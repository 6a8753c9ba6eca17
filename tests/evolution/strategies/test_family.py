"""A family: the trunk doubles in every round, leaves copies behind, and all are finished in the last round."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from graftwork.evolution import Plan, SearchState
from graftwork.evolution.mutation import R2RMutation
from graftwork.evolution.strategies import Family, first_genome
from graftwork.evolution.strategies._family import TRUNK
from graftwork.networks.genome import Genome, Layer, seed_genome
from tests.evolution.strategies.test_strategy_contract import SEED, ran


def family(**limits: Any) -> Family:
    return Family(mutate=R2RMutation(**limits))


def hidden(genome: Genome) -> list[int]:
    """Hidden channels of each layer."""
    return [sum(b.hidden_channels for b in item.blocks) for item in genome.body if isinstance(item, Layer)]


def test_a_family_begins_with_a_quarter_of_the_hidden_channels_and_others_with_the_seed() -> None:
    seed = seed_genome("default", (3, 32, 32), 10)
    first = first_genome("family", seed)
    assert hidden(first) == [count // 4 for count in hidden(seed)]
    assert first.ids == seed.ids
    assert first_genome("race", seed) is seed


def test_every_round_but_the_last_leaves_a_copy_and_twice_the_hidden_channels() -> None:
    state, trainer, rounds = ran(family(), Plan(4, 10, 10), survivors=4, size=4)
    assert [len(r.members) for r in rounds] == [1, 2, 3, 4, 4]
    genomes = state.population.genomes
    assert [hidden(genome) for genome in genomes] == [[count * 2**n for count in hidden(SEED)] for n in range(4)]
    ids = [block for genome in genomes for block in genome.ids]
    assert len(ids) == len(set(ids))  # no weight is shared, so that one can be finished and another not
    assert state.survivors == tuple(state.population.members)
    assert {widths(genome) for genome in trainer.trained[-20:]} == {widths(genome) for genome in genomes}


def widths(genome: Genome) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(b.hidden_channels for b in item.blocks) for item in genome.layers)


def test_a_copy_has_the_weights_of_the_moment_and_only_the_trunk_trains_until_the_last_round() -> None:
    seen: dict[str, Any] = {}

    def look(state: SearchState, name: str, *_: Any) -> None:
        if state.generation == 1 and not seen:
            copy, trunk = state.population
            bank = state.population.bank
            for new, old in zip(copy.genome.ids, SEED.ids, strict=True):
                assert all(torch.equal(value, bank[old][key]) for key, value in bank[new].items())
            assert set(SEED.ids) < set(trunk.genome.ids)
            seen["looked"] = True
        if state.generation < 3:
            assert name == list(state.population.members)[-1]
        else:
            seen[name] = seen.get(name, 0) + 1

    state, _, _ = ran(family(), Plan(3, 8, 30), survivors=3, size=3, observer=look)
    assert seen.pop("looked")
    assert set(seen) == set(state.population.members)
    assert max(seen.values()) - min(seen.values()) <= 1


def test_sizes_get_as_many_updates_each_and_two_thirds_of_the_work_goes_to_the_trunk() -> None:
    plan = Plan(5, flops=10**9, initial_fraction=0.15)
    _, trainer, rounds = ran(family(), plan, survivors=5, size=5)
    ends = [r.step for r in rounds]
    steps = [ends[0], *(after - before for before, after in pairwise(ends))]
    trunk = rounds[-2].training_flops
    assert trunk == pytest.approx(TRUNK * plan.flops, rel=0.02)  # type: ignore[operator]
    assert rounds[-1].training_flops == pytest.approx(plan.flops, rel=0.03)
    costs = [sum(map(sum, widths(g))) for g in trainer.trained[: ends[-2]]]
    assert costs == sorted(costs)
    assert max(steps[:-1]) < 1.5 * min(steps[:-1])


def test_a_size_that_breaks_a_limit_is_not_made_and_the_trunk_trains_on() -> None:
    _, trainer, rounds = ran(family(max_parameters=1), Plan(2, 4, 3), survivors=3, size=3)
    assert [len(r.members) for r in rounds] == [1, 1, 1]
    assert rounds[1].report.rejected == {"max_parameters": 1}
    assert trainer.trained == [SEED] * 10


def test_where_there_is_room_for_fewer_the_largest_are_kept() -> None:
    state, _, rounds = ran(family(), Plan(4, 2, 2), survivors=2, size=3)
    assert max(len(r.members) for r in rounds) == 3
    first, second = (sum(hidden(genome)) for genome in state.population.genomes)
    assert second == 2 * first > 2 * sum(hidden(SEED))


def test_a_size_is_not_made_where_scoring_it_would_take_most_of_the_round() -> None:
    _, _, rounds = ran(family(), Plan(3, flops=7 * 10**6, initial_fraction=0.2), survivors=4, size=4)
    assert rounds[1].report.rejected == {"budget": 1}
    assert len(rounds[1].members) == 1
