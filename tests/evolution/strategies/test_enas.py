"""ENAS: the space, the controller, who trains, and the one network that is left."""

from typing import Any

import numpy as np
import pytest
import torch

from graftwork.evolution import Plan, Round
from graftwork.evolution.mutation import R2RMutation
from graftwork.evolution.strategies import Enas
from graftwork.evolution.strategies._enas import Controller
from graftwork.evolution.strategies._space import Space
from graftwork.networks import bind
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.genome import num_parameters
from graftwork.training import Scorer as RealScorer
from tests.evolution.strategies.test_strategy_contract import SEED, begun, ran
from tests.evolution.test_loop import STEP, Scorer


def enas(**options: Any) -> Enas:
    return Enas(mutate=R2RMutation(), **options)


def test_every_network_of_the_space_is_over_the_banks_blocks_and_a_wider_one_contains_the_narrower() -> None:
    space, bank = Space(SEED), BlockBank()
    grow_bank(bank, space.whole, generator=torch.Generator().manual_seed(0))
    assert len(space.allowed) == 6
    rng, seen = np.random.default_rng(0), set()
    for _ in range(30):
        choices = [int(rng.choice(np.flatnonzero(slot.numpy()))) for slot in space.allowed]
        genome = space.genome(choices)
        assert bind(genome, bank)(torch.zeros(2, *SEED.input_shape)).shape == (2, 3)
        seen.add(genome)
    assert len(seen) > 25
    assert set(space.genome([1, 0] * 3).ids) < set(space.genome([4, 0] * 3).ids)
    narrow, wide = space.genome([5, 0] * 3), space.genome([8, 0] * 3)
    hidden = [sum(block.hidden_channels for block in genome.blocks()) for genome in (narrow, SEED, wide)]
    assert hidden == [hidden[1] / 2, hidden[1], hidden[1] * 2]  # all 3×3, as the seed
    assert num_parameters(space.smallest[1]) == min(num_parameters(genome) for genome in {*seen, space.smallest[1]})


def test_a_slot_that_must_be_filled_is_never_left_out() -> None:
    space, controller = Space(SEED), Controller(Space.num_options)
    choices = controller.sample(space.allowed, 400, np.random.default_rng(0))
    assert choices[:, ::2].min() == 1
    assert sorted(set(choices[:, 1])) == list(range(13))


def test_probabilities_are_those_that_samples_are_drawn_by() -> None:
    controller, space, generator = Controller(Space.num_options), Space(SEED), torch.Generator().manual_seed(0)
    for parameter in controller.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    allowed = space.allowed[:2]
    choices = controller.sample(allowed, 4000, np.random.default_rng(0))
    pairs, counts = np.unique(choices, axis=0, return_counts=True)
    logs, entropy = controller.judged(allowed, pairs)
    assert logs.exp().detach().numpy()[counts > 40] == pytest.approx(counts[counts > 40] / 4000, rel=0.5)
    every = np.array([[a, b] for a in range(1, 13) for b in range(13)])
    logs, entropy = controller.judged(allowed, every)
    assert float(logs.detach().exp().sum()) == pytest.approx(1, abs=1e-5)
    assert (entropy.detach() > 0).all()


@pytest.mark.slow
def test_the_controller_learns_what_is_rewarded() -> None:
    """Networks with more items are right more often; REINFORCE finds that out by itself."""

    class Deeper(Scorer):
        num_images = 64

        def glance(self, members: Any, rows: Any) -> Any:
            return np.array([[row / 64 < (len(m.genome.body) - 6) / 3 for row in rows] for m in members])

        def flops(self, genomes: Any) -> int:
            return 1

    def share_of_optional_layers(strategy: Enas) -> float:
        choices = strategy.controller.sample(Space(SEED).allowed, 500, np.random.default_rng(0))
        return float((choices[:, 1::2] > 0).mean())

    strategy = enas(num_updates=25)
    for group in strategy.optimizer.param_groups:
        group["lr"] = 0.05
    state, now = begun(), Round(4, rounds_after=3, steps=None, flops=1e15, scorer=Deeper())
    strategy.propose(state, now)
    assert share_of_optional_layers(strategy) == pytest.approx(12 / 13, abs=0.03)
    strategy._learn(state, now)
    assert share_of_optional_layers(strategy) > 0.985


def test_a_controller_that_is_stored_between_updates_learns_on_to_the_same_bits() -> None:
    found = []
    for stored in (False, True):
        state, now, strategy = (
            begun(),
            Round(4, rounds_after=3, steps=None, flops=1e15, scorer=Scorer()),
            enas(num_updates=3),
        )
        strategy.propose(state, now)
        strategy._learn(state, now)
        if stored:
            kept, strategy = strategy.state_dict(), enas(num_updates=3)
            strategy.load_state_dict(kept)
        strategy._learn(state, now)
        found.append(strategy.state_dict())
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == 4 * 5 + 4  # five tensors, each with its moments and its count
    for key, value in found[0].items():
        assert torch.equal(value, found[1][key]) if isinstance(value, torch.Tensor) else value == found[1][key], key


def test_each_update_trains_another_sample_until_one_network_is_final_in_the_last_third() -> None:
    state, trainer, rounds = ran(enas(), Plan(5, 10, 10), survivors=2, size=4)
    assert [len(r.members) for r in rounds] == [4, 4, 4, 4, 1, 1]
    for r in rounds[:4]:
        assert len(set(trainer.trained[r.number * 10 : r.number * 10 + 10])) > 7
    (final,) = rounds[4].members
    assert set(trainer.trained[40:]) == {state.population[final].genome}
    assert rounds[5].survivors == (final,)
    assert "m0" not in rounds[0].members


def test_the_controller_and_its_samples_are_paid_for_and_take_no_more_than_their_share() -> None:
    own = []
    for share in (0.0, 0.3):
        state, trainer, rounds = ran(
            enas(most_share=share, num_samples=4), Plan(3, flops=600 * STEP, initial_fraction=0.25)
        )
        scored = len(rounds) * STEP + STEP  # and once more to find the final network
        own.append(state.scoring_flops - scored)
        sample = 2 * 6 * sum(parameter.numel() for parameter in Controller(13).parameters())
        assert own[-1] > sample * len(set(trainer.trained))
    assert 15 * STEP < own[1] - own[0] < 0.3 * 600 * STEP


def test_glances_are_by_the_statistics_of_the_batch_and_leave_nothing_behind() -> None:
    bank, space = BlockBank(), Space(SEED)
    grow_bank(bank, space.whole, generator=torch.Generator().manual_seed(0), initialisation="random")
    members = [bind(space.genome(choices), bank) for choices in ([5, 0] * 3, [5, 0, 6, 0, 5, 1])]
    data = torch.randint(0, 256, (30, 8, 8, 1), dtype=torch.uint8)
    labels = torch.randint(0, 3, (30,))

    def transform(x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 3, 1, 2).float() / 255

    scorer = RealScorer(data, labels, transform=transform, calibration=data)  # type: ignore[arg-type]
    rows = np.array([3, 7, 11, 12, 29])
    before = {key: value.clone() for key, value in members[0].state_dict().items()}
    found = scorer.glance(members, rows)
    for member, right in zip(members, found, strict=True):
        logits = member.train()(transform(data[torch.from_numpy(rows)]))
        assert right.tolist() == (logits.argmax(1) == labels[rows]).tolist()
    assert all(torch.equal(value, before[key]) for key, value in members[0].state_dict().items())


def test_a_search_of_one_round_ends_with_samples() -> None:
    _, trainer, rounds = ran(enas(), Plan(0, 6, 0), survivors=2, size=3)
    assert len(rounds[0].members) == 3
    assert len(trainer.trained) == 6 == len(set(trainer.trained))
