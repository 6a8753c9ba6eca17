"""Transformation by reinforcement: tokens, actions, and a policy that learns which of them pay."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from graftwork.evolution import Plan, Round
from graftwork.evolution.mutation import R2RMutation
from graftwork.evolution.strategies import TransformationRL
from graftwork.evolution.strategies._actors import HEAD, NUM_TOKENS, POOL, SIZES, hidden_of, stages_of, tokens_of
from graftwork.evolution.strategies._actors import transforms_of as transforms
from graftwork.evolution.strategies._controller import spread
from graftwork.evolution.transforms import R2RDeepen, R2RWiden, compose
from graftwork.networks.genome import Layer, seed_genome
from graftwork.typing import MemberId
from tests.evolution.strategies.test_strategy_contract import SEED, begun, ran
from tests.evolution.test_loop import Scorer

BASE = seed_genome("base", (1, 32, 32), 3)


def strategy(**options: Any) -> TransformationRL:
    found = TransformationRL(mutate=R2RMutation(), **options)
    spread(dict(found.policy.named_parameters()), {"": 0.3}, generator=torch.Generator().manual_seed(0))
    return found


def test_a_network_is_read_as_widths_kernels_and_pools() -> None:
    tokens = tokens_of(BASE)
    eight, sixteen, thirty_two = (3 * SIZES.index(size) + 1 for size in (8, 16, 32))  # all 3×3
    assert tokens == [eight, eight, POOL, sixteen, sixteen, POOL, thirty_two, thirty_two, POOL, HEAD]
    assert stages_of(tokens) == [[0, 1], [3, 4], [6, 7], []]
    assert max(tokens) < NUM_TOKENS


def test_layers_widen_to_the_next_size_of_the_list_and_new_layers_are_as_wide_as_the_one_before() -> None:
    rng = np.random.default_rng(0)
    marks = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    wider = compose(*transforms(BASE, "wider", marks))(BASE, rng=rng).child
    layers = [hidden_of(item) for item in wider.body if isinstance(item, Layer)]
    assert layers == [16, 8, 16, 32, 32, 32]
    again = compose(*transforms(wider, "wider", marks))(wider, rng=rng).child
    assert [hidden_of(item) for item in again.body if isinstance(item, Layer)] == [32, 8, 16, 64, 32, 32]
    assert transforms(BASE, "wider", [0] * 10) == []
    (deeper,) = transforms(BASE, "deeper", [1, 1, 2])
    assert deeper == R2RDeepen(5, (5,), 16)


def test_actions_are_possible_and_judged_by_the_probabilities_that_they_were_drawn_by() -> None:
    policy, tokens, rng = strategy().policy, tokens_of(BASE), np.random.default_rng(0)
    drawn: dict[tuple[int, ...], int] = {}
    for _ in range(200):
        choices, _, _ = policy.act(tokens, "deeper", rng=rng)
        drawn[tuple(choices)] = drawn.get(tuple(choices), 0) + 1
    total = 0.0
    for stage in range(3):
        for layer in range(2):
            for kernel in range(3):
                _, log, entropy = policy.act(tokens, "deeper", choices=[stage, layer, kernel])
                total += float(log.detach().exp())
                assert drawn.get((stage, layer, kernel), 0) / 200 == pytest.approx(float(log.detach().exp()), abs=0.08)
                assert float(entropy.detach()) > 0
    assert total == pytest.approx(1, abs=1e-5)  # no other action is possible
    marks = np.array([policy.act(tokens, "wider", rng=rng)[0] for _ in range(100)])
    assert marks[:, [2, 5, 8, 9]].max() == 0  # pools and the head
    assert (marks.mean(axis=0)[[0, 1, 3, 4, 6, 7]] > 0.1).all()


def test_the_widest_layers_are_never_widened() -> None:
    wide = R2RWiden(0, 3, SIZES[-1])(BASE, rng=np.random.default_rng(0)).child
    policy = strategy().policy
    marks = [policy.act(tokens_of(wide), "wider", rng=np.random.default_rng(seed))[0] for seed in range(30)]
    assert not any(mark[0] for mark in marks)


def test_children_grow_the_best_network_and_share_its_blocks() -> None:
    state, _, rounds = ran(strategy(), Plan(3, 2, 4), survivors=2, size=4)
    for before, after in pairwise(rounds):
        assert {birth.parent for birth in after.births} == {before.survivors[0]}
        best = set(state.population.birth(before.survivors[0]).genome.ids)
        assert all(best < set(birth.genome.ids) for birth in after.births)


def test_the_same_network_is_not_grown_twice_but_its_action_gets_the_score() -> None:
    chooser, state = strategy(wider_steps=1, deeper_steps=0), begun()
    state.generation, state.survivors = 1, (MemberId("m0"),)
    report = chooser.propose(state, Round(60, rounds_after=1, steps=None, flops=None, scorer=Scorer()))
    assert len(state.population) == 8  # three layers, each widened or not
    assert not report.saturated
    assert len(chooser._episode) == 59
    assert {name for name, _ in chooser._episode} == set(state.population.members)


@pytest.mark.slow
def test_the_policy_learns_what_is_rewarded_and_is_paid_for() -> None:
    """Networks with an added 5×5 layer are the best: after some rounds the policy adds hardly any other."""
    chooser, state = strategy(), begun()
    for group in chooser.optimizer.param_groups:
        group["lr"] = 0.03
    state.generation, state.survivors = 1, (MemberId("m0"),)

    def share() -> float:
        rng = np.random.default_rng(1)
        return float(np.mean([chooser.policy.act(tokens_of(SEED), "deeper", rng=rng)[0][2] == 2 for _ in range(100)]))

    before, paid = share(), []
    for _ in range(20):
        chooser.propose(state, Round(8, rounds_after=9, steps=None, flops=None, scorer=Scorer()))
        state.accuracies = {
            name: 0.9 if any(b.kernel_size == 5 for b in member.genome.blocks()) else 0.5
            for name, member in state.population.members.items()
        }
        state.population.keep(["m0"])  # type: ignore[list-item]
        paid.append(state.scoring_flops)
    assert share() > max(0.8, before + 0.2)
    assert all(before < after for before, after in pairwise(paid))
