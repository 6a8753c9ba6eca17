"""Algorithm 1 with trainer and scorer played by stand-ins: who is drawn, when rounds end, what they tell."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from graftwork.errors import ConfigError
from graftwork.evolution import Generation, Plan, SearchState, search
from graftwork.execution import shared_flops
from graftwork.genome import TRAINING_FACTOR, Genome, Head, seed_genome, training_flops
from graftwork.member import Member
from graftwork.mutation import R2RMutation
from graftwork.population import Population
from graftwork.training import Evaluation, Update
from graftwork.typing import BlockId

SEED = seed_genome("poster", (1, 8, 8), 3)
POOLED = seed_genome("poster", (1, 16, 16), 3).replace(head=Head("linear", hidden_features=0, pooling="avg"))
STEP = training_flops(SEED, 2)


class Trainer:
    """Moves nothing; the loss is the number of the step."""

    batch_size = 2

    def __init__(self, updates_at_once: int = 1) -> None:
        self.progress: list[float] = []
        self.trained: list[Genome] = []
        self.drawn: list[tuple[Member, ...]] = []
        self.runs: list[list[int]] = []
        self.sizes: list[tuple[int, int] | None] = []
        self.lines: list[int | None] = []
        self.copied: list[dict[BlockId, BlockId]] = []
        self.trunks: list[tuple[set[BlockId], float]] = []
        self.updates_at_once = updates_at_once

    def sync(self, copies: Mapping[BlockId, BlockId] | None = None) -> None:
        """There is no optimizer."""
        if copies:
            self.copied.append(dict(copies))

    def slow(self, block_ids: Iterable[BlockId], rate: float) -> None:
        self.trunks.append((set(block_ids), rate))

    def run(self, updates: Sequence[Update]) -> float:
        self.runs.append([update.number for update in updates])
        self.progress += [update.progress for update in updates]
        self.trained += [update.members[0].genome for update in updates]
        self.drawn += [update.members for update in updates]
        self.sizes += [update.size for update in updates]
        self.lines += [update.line for update in updates]
        return float(sum(update.number for update in updates))


class Scorer:
    """Every scoring costs as much as one step of the seed; members are right on ever fewer examples."""

    def evaluate(self, members: Sequence[Member]) -> Evaluation:
        predicted = np.array([[0] * (8 - i) + [1] * i for i in range(len(members))], dtype=np.int64)
        return Evaluation(predicted, np.zeros(8, np.int64), STEP)

    def flops(self, genomes: Sequence[Genome]) -> int:
        return STEP


class LastFirst:
    """Chooses the youngest member first."""

    def select(self, correct: Any, costs: Any, count: int, rng: np.random.Generator) -> list[int]:
        return list(range(len(correct)))[::-1][:count]


def run(plan: Plan, **options: Any) -> tuple[SearchState, Trainer, list[Generation]]:
    population = Population()
    population.add_seed(options.pop("seed", SEED), generator=torch.Generator().manual_seed(0))
    state, trainer = SearchState(population, np.random.default_rng(0)), Trainer(options.pop("updates_at_once", 1))
    parts: dict[str, Any] = {"selector": LastFirst(), "mutate": R2RMutation(), "num_survivors": 2}
    parts |= {"trainer": trainer, "scorer": Scorer(), "plan": plan, "population_size": 4}
    return state, trainer, list(search(state, **{**parts, **options}))


def test_survivors_stand_in_the_order_of_the_selectors_choice() -> None:
    _, _, rounds = run(Plan(2, 2, 2))
    assert [len(r.members) for r in rounds] == [1, 4, 4]
    assert rounds[1].survivors == ("m3", "m2")
    assert rounds[2].members == ("m2", "m3", "m4", "m5")
    assert rounds[2].survivors == ("m5", "m4")


def test_progress_rises_evenly_over_the_whole_search_not_over_a_round() -> None:
    _, trainer, _ = run(Plan(2, 6, 2))
    assert trainer.progress == pytest.approx(np.arange(10) / 10)


def test_progress_of_a_plan_in_flops_rises_to_nearly_one() -> None:
    _, trainer, _ = run(Plan(2, flops=200 * STEP), mutate=R2RMutation(max_parameters=1))
    assert trainer.progress[0] == 0
    assert all(a < b for a, b in zip(trainer.progress, trainer.progress[1:], strict=False))
    assert 0.97 < trainer.progress[-1] <= 1


def test_no_round_spends_more_than_its_share_scoring_included() -> None:
    for flops in range(40 * STEP, 42 * STEP, STEP // 3):
        plan = Plan(3, flops=flops)
        _, _, rounds = run(plan)
        for r in rounds:
            assert r.training_flops + r.scoring_flops <= plan.flops_until(r.number)
        assert rounds[0].step == int(plan.flops_until(0) / STEP) - 1  # all that fits is used


def test_every_member_is_drawn_about_equally_often() -> None:
    _, trainer, _ = run(Plan(1, 1, 400))
    counts = [trainer.trained[1:].count(genome) for genome in set(trainer.trained[1:])]
    assert len(counts) == 4
    assert min(counts) > 60


def test_a_round_tells_its_own_loss_births_and_best_member() -> None:
    _, _, rounds = run(Plan(2, 4, 2))
    assert [r.mean_loss for r in rounds] == [1.5, 4.5, 6.5]
    assert [[b.id for b in r.births] for r in rounds] == [["m0"], ["m1", "m2", "m3"], ["m4", "m5"]]
    assert [r.best for r in rounds] == [r.members[0] for r in rounds]
    assert rounds[1].accuracies == {f"m{i}": (8 - i) / 8 for i in range(4)}
    assert [r.last for r in rounds] == [False, False, True]


def test_after_the_last_round_only_the_survivors_are_left() -> None:
    state, _, rounds = run(Plan(1, 1, 1))
    assert set(state.population.members) == set(rounds[-1].survivors)
    assert set(state.population.bank) == {i for genome in state.population.genomes for i in genome.ids}


def test_several_members_per_step_are_different_ones_drawn_about_equally_often() -> None:
    _, trainer, rounds = run(Plan(1, 1, 400, members_per_step=3))
    assert len(trainer.drawn[0]) == 1  # the seed is alone
    assert rounds[-1].step == 401
    joint = trainer.drawn[1:]
    assert all(len(set(members)) == 3 for members in joint)
    counts = [sum(member in members for members in joint) for member in {m for members in joint for m in members}]
    assert len(counts) == 4
    assert min(counts) > 260


def test_members_per_step_beyond_the_population_trains_all_of_it() -> None:
    _, trainer, _ = run(Plan(1, 1, 5, members_per_step=9))
    assert [len(members) for members in trainer.drawn] == [1, 4, 4, 4, 4, 4]


def test_several_members_per_step_pay_for_what_they_share_once() -> None:
    state, trainer, rounds = run(Plan(1, flops=300 * STEP, members_per_step=4))
    together = TRAINING_FACTOR * 2 * shared_flops([member.genome for member in trainer.drawn[-1]])
    alone = sum(training_flops(member.genome, 2) for member in trainer.drawn[-1])
    assert together < alone
    assert state.training_flops == rounds[0].training_flops + together * (rounds[1].step - rounds[0].step)
    assert state.spent_flops <= 300 * STEP < state.spent_flops + alone + STEP


def test_drawing_many_updates_at_once_draws_the_same_ones() -> None:
    """Same members, batches, progress and costs, in runs that end with the round."""
    for plan in (Plan(2, 5, 11), Plan(2, flops=60 * STEP), Plan(2, flops=60 * STEP, members_per_step=2)):
        one_state, one, ones = run(plan)
        state, many, rounds = run(plan, updates_at_once=4)
        assert one.trained == many.trained
        assert one.progress == many.progress
        assert [len(numbers) for numbers in many.runs].count(4) > 2
        assert max(len(numbers) for numbers in many.runs) == 4
        assert [number for numbers in many.runs for number in numbers] == list(range(state.step))
        assert [(r.step, r.training_flops, r.mean_loss) for r in ones] == [
            (r.step, r.training_flops, r.mean_loss) for r in rounds
        ]
        assert one_state.rng.bit_generator.state == state.rng.bit_generator.state


def test_small_images_come_first_and_cost_what_they_cost() -> None:
    """The first share of the training shrinks images; its FLOPs are those of the smaller ones."""
    full, small = training_flops(POOLED, 2), training_flops(POOLED.at_size(8, 8), 2)
    assert small < full / 2
    plan = Plan(0, flops=60 * full, initial_fraction=1.0, small_share=0.5, small_size=(8, 8))
    state, trainer, _ = run(plan, seed=POOLED)
    shrunk = trainer.sizes.count((8, 8))
    assert trainer.sizes == [(8, 8)] * shrunk + [None] * (state.step - shrunk)
    assert state.training_flops == shrunk * small + (state.step - shrunk) * full
    assert trainer.progress[shrunk - 1] < 0.5 <= trainer.progress[shrunk]
    _, plain, _ = run(Plan(0, flops=60 * full, initial_fraction=1.0), seed=POOLED)
    assert len(plain.sizes) < state.step
    assert set(plain.sizes) == {None}


def test_small_images_of_several_members_pay_for_what_they_share_once() -> None:
    plan = Plan(1, 1, 40, members_per_step=3, small_share=1.0, small_size=(8, 8))
    state, trainer, rounds = run(plan, seed=POOLED)
    together = [
        TRAINING_FACTOR * 2 * shared_flops([member.genome.at_size(8, 8) for member in members])
        for members in trainer.drawn[1:]
    ]
    assert state.training_flops == rounds[0].training_flops + sum(together)


def test_a_plan_survives_json() -> None:
    plan = Plan(1, 1, 4, small_share=0.3, small_size=(4, 5))
    assert Plan(**json.loads(json.dumps(asdict(plan)))) == plan
    with pytest.raises(ConfigError, match="small_share must be in"):
        Plan(1, 1, 4, small_share=1.5)


@pytest.mark.parametrize("plan", [Plan(2, 20, 5, fork_fraction=0.4), Plan(2, flops=200 * STEP, fork_fraction=0.4)])
def test_the_seed_parts_into_a_line_for_each_survivor_when_its_share_of_the_work_is_done(plan: Plan) -> None:
    state, trainer, rounds = run(plan)
    alone = trainer.trained.index(next(genome for genome in trainer.trained if genome != SEED))
    assert trainer.progress[alone] == pytest.approx(0.4, abs=0.02)
    assert rounds[0].members == state.lines == ("m1", "m2")
    assert [birth.parent for birth in rounds[0].births] == [None, "m0", "m0"]
    assert len(trainer.copied) == 1
    assert SEED not in trainer.trained[alone:]


def test_a_population_parts_at_the_beginning_of_the_first_round_that_follows_its_share() -> None:
    state, _, rounds = run(Plan(3, 4, 4, fork_fraction=0.3))
    assert state.lines == ("m4", "m5")
    assert [birth.parent for birth in rounds[2].births[:2]] == list(rounds[1].survivors)
    assert rounds[2].members[:2] == state.lines


@pytest.mark.parametrize("plan", [Plan(5, 20, 5, fork_fraction=0.4), Plan(5, 4, 4, fork_fraction=0.3)])
def test_the_trunk_is_what_several_lines_bind_once_there_are_lines(plan: Plan) -> None:
    plan = replace(plan, fork_layer=1, trunk_rate=0.25)
    _, trainer, rounds = run(plan, population_size=6)
    stem = {SEED.layers[0].blocks[0].id}
    told = [trunk for trunk, _ in trainer.trunks]
    parted = next(number for number, trunk in enumerate(told) if trunk)
    assert parted > 0
    assert told[parted:] == [stem] * len(told[parted:])  # though rounds have widened the first layer, each for itself
    assert any(len(birth.genome.layers[0].blocks) > 1 for r in rounds for birth in r.births)
    assert {rate for trunk, rate in trainer.trunks if trunk} == {0.25}
    _, alone, _ = run(plan, num_survivors=1, population_size=6)
    assert alone.trunks
    assert not any(trunk for trunk, _ in alone.trunks)  # one line shares with no other


def test_one_of_each_line_survives_whatever_the_selector_prefers() -> None:
    state, _, rounds = run(Plan(4, 4, 4, fork_fraction=0.1, fork_layer=1), population_size=6)
    for r in rounds:
        owners = [state.population.ancestor_among(member, state.lines) for member in r.survivors]
        assert tuple(owners) == state.lines
        for line, survivor in zip(state.lines, r.survivors, strict=True):
            kin = [m for m in r.members if state.population.ancestor_among(m, state.lines) == line]
            assert survivor == kin[-1]  # the youngest, which the selector likes best
    ids = [set(genome.ids) for genome in state.population.genomes]
    assert ids[0] & ids[1] == {SEED.layers[0].blocks[0].id}


def test_an_update_knows_the_line_of_its_member() -> None:
    state, trainer, rounds = run(Plan(2, 20, 20, fork_fraction=0.2), population_size=6)
    parted = next(number for number, line in enumerate(trainer.lines) if line is not None)
    assert {genome.id for genome in trainer.trained[:parted]} == {SEED.id}
    heads = [birth.genome.head.id for birth in rounds[0].births[1:]]  # each line has a head of its own
    assert trainer.lines[parted:] == [heads.index(genome.head.id) for genome in trainer.trained[parted:]]
    assert set(trainer.lines[parted:]) == {0, 1}
    assert [state.line_of(member) for member in rounds[-1].survivors] == [0, 1]
    _, together, _ = run(Plan(2, 20, 20))
    assert set(together.lines) == {None}


def test_forking_draws_the_same_updates_however_many_are_drawn_at_once() -> None:
    plan = Plan(2, flops=60 * STEP, fork_fraction=0.25)
    (one, _, ones), (many, _, rounds) = run(plan), run(plan, updates_at_once=4)
    assert [(r.step, r.training_flops, r.members) for r in ones] == [
        (r.step, r.training_flops, r.members) for r in rounds
    ]
    assert one.rng.bit_generator.state == many.rng.bit_generator.state


def test_the_round_of_a_fork_follows_from_its_share() -> None:
    shares = {None: None, 0.0: 0, 0.2: 0, 0.5: 1, 0.6: 2, 0.75: 2}
    assert {s: Plan(2, flops=1, fork_fraction=s).fork_generation for s in shares} == shares
    assert Plan(0, 5, 5, fork_fraction=1.0).fork_generation == 0


@pytest.mark.parametrize("share", [-0.1, 0.76])
def test_a_fork_that_would_never_come_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="fork_fraction"):
        Plan(2, flops=1, fork_fraction=share)


def test_the_control_of_a_search_sees_images_and_rounds_of_the_same_kind() -> None:
    plan = Plan(2, 6, 2, members_per_step=3, small_share=0.4, small_size=(24, 24), fork_fraction=0.5, trunk_rate=0)
    expected = Plan(2, flops=77, initial_fraction=0.6, small_share=0.4, small_size=(24, 24))
    assert plan.alone(77) == expected
    assert expected.alone(77) == expected
