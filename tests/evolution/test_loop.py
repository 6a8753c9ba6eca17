"""Algorithm 1 with trainer and scorer played by stand-ins: who is drawn, when rounds end, what they tell."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from graftwork.errors import ConfigError, GraftworkError
from graftwork.evolution import Generation, Plan, Population, SearchState, search
from graftwork.evolution.mutation import R2RMutation
from graftwork.evolution.strategies import Neuroevolution
from graftwork.evolution.transforms import R2RWiden
from graftwork.networks import Member
from graftwork.networks.bank import grow_bank
from graftwork.networks.genome import Genome, Head, forward_flops, seed_genome, training_flops
from graftwork.training import Evaluation, Outcome, Update
from graftwork.typing import MemberId

SEED = seed_genome("poster", (1, 8, 8), 3)
POOLED = seed_genome("poster", (1, 16, 16), 3).replace(head=Head("linear", hidden_features=0, pooling="avg"))
STEP = training_flops(SEED, 2)


class Trainer:
    """Moves nothing; the loss is the number of the step."""

    batch_size = 2
    extra_flops = 0

    def __init__(self, updates_at_once: int = 1) -> None:
        self.progress: list[float] = []
        self.trained: list[Genome] = []
        self.runs: list[list[int]] = []
        self.sizes: list[tuple[int, int] | None] = []
        self.updates_at_once = updates_at_once
        self.failing: set[str] = set()
        self.synced = 0

    def sync(self) -> None:
        """There is no optimizer."""
        self.synced += 1

    def run(self, updates: Sequence[Update]) -> Outcome:
        skipped = frozenset(row for row, update in enumerate(updates) if update.members[0].genome.id in self.failing)
        self.runs.append([update.number for update in updates])
        self.progress += [update.progress for update in updates]
        self.trained += [update.members[0].genome for update in updates]
        self.sizes += [update.size for update in updates]
        return Outcome(float(sum(u.number for row, u in enumerate(updates) if row not in skipped)), skipped)


class Scorer:
    """Every scoring costs as much as one step of the seed; members are right on ever fewer examples."""

    def evaluate(self, members: Sequence[Member]) -> Evaluation:
        predicted = np.array([[0] * (8 - i) + [1] * i for i in range(len(members))], dtype=np.int64)
        return Evaluation(predicted, np.zeros(8, np.int64), STEP)

    def flops(self, genomes: Sequence[Genome]) -> int:
        return STEP

    num_images = 8

    def glance(self, members: Sequence[Member], rows: Any) -> Any:
        return np.array([[(row + len(member.genome.body)) % 2 == 0 for row in rows] for member in members])


class LastFirst:
    """Chooses the youngest member first."""

    def select(self, correct: Any, costs: Any, count: int, rng: np.random.Generator, **how: Any) -> list[int]:
        return list(range(len(correct)))[::-1][:count]


def run(plan: Plan, **options: Any) -> tuple[SearchState, Trainer, list[Generation]]:
    population = Population()
    population.add_seed(options.pop("seed", SEED), generator=torch.Generator().manual_seed(0))
    state = SearchState(population, np.random.default_rng(0))
    trainer = options.pop("trainer", None) or Trainer(options.pop("updates_at_once", 1))
    choices = {"selector": options.pop("selector", LastFirst()), "mutate": options.pop("mutate", R2RMutation())}
    strategy = Neuroevolution(**choices)
    parts: dict[str, Any] = {"strategy": strategy, "trainer": trainer, "scorer": Scorer(), "plan": plan}
    parts |= {"num_survivors": 2, "population_size": 4}
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


def test_an_update_costs_what_its_member_costs_and_every_round_one_scoring() -> None:
    state, trainer, rounds = run(Plan(2, 6, 9))
    costs = [training_flops(genome, trainer.batch_size) for genome in trainer.trained]
    assert len(set(costs)) > 2
    assert [r.training_flops for r in rounds] == [sum(costs[: r.step]) for r in rounds]
    assert [r.scoring_flops for r in rounds] == [STEP, 2 * STEP, 3 * STEP]
    assert state.spent_flops == sum(costs) + 3 * STEP


def test_a_round_ends_when_the_largest_member_no_longer_fits_whoever_would_be_drawn() -> None:
    for share in range(60, 75):
        plan = Plan(1, flops=share * STEP)
        _, trainer, rounds = run(plan)
        costs = [training_flops(genome, trainer.batch_size) for genome in trainer.trained]
        largest = max(training_flops(birth.genome, 2) for birth in (*rounds[0].births, *rounds[1].births))
        last, left = costs[-1], plan.flops_until(1) - rounds[1].training_flops - rounds[1].scoring_flops
        assert 0 <= left < largest <= left + last


def test_a_genome_from_outside_the_population_is_paid_for_and_never_overspends() -> None:
    large = R2RWiden(2, 5, 64)(SEED, rng=np.random.default_rng(0)).child

    class Sampling(Neuroevolution):
        def draw(self, state: SearchState, count: int) -> list[Genome]:  # type: ignore[override]
            grow_bank(state.population.bank, large, generator=torch.Generator().manual_seed(0))
            return [large] * count

    strategy = Sampling(selector=LastFirst(), mutate=R2RMutation())  # type: ignore[arg-type]
    each = training_flops(large, 2)
    assert each > 2 * STEP
    for flops in (20 * each, 20 * each + STEP, 21 * each - STEP):
        state, trainer, _ = run(Plan(0, flops=flops), strategy=strategy)
        assert trainer.trained == [large] * ((flops - STEP) // each)
        assert state.training_flops == len(trainer.trained) * each


def test_progress_counts_training_alone_where_scoring_takes_much_of_the_budget() -> None:
    class Costly(Scorer):
        def flops(self, genomes: Sequence[Genome]) -> int:
            return 30 * STEP

    _, trainer, _ = run(Plan(0, flops=100 * STEP), scorer=Costly())
    assert trainer.progress == pytest.approx(np.arange(70) / 70)


def test_selectors_get_the_cost_of_each_member_in_order_of_birth_and_the_searchs_own_randomness() -> None:
    class Curious(LastFirst):
        def __init__(self) -> None:
            self.asked: list[tuple[list[float], np.random.Generator]] = []

        def select(self, correct: Any, costs: Any, count: int, rng: np.random.Generator, **how: Any) -> list[int]:
            self.asked.append((costs.tolist(), rng))
            return super().select(correct, costs, count, rng)

    selector = Curious()
    state, _, rounds = run(Plan(2, 1, 1), selector=selector)
    genomes = [[state.population.birth(member).genome for member in r.members] for r in rounds]
    assert [costs for costs, _ in selector.asked] == [[forward_flops(genome) for genome in found] for found in genomes]
    assert len(set(selector.asked[-1][0])) > 2
    assert all(rng is state.rng for _, rng in selector.asked)


def test_a_state_knows_the_last_scores() -> None:
    state, _, rounds = run(Plan(1, 1, 1))
    assert state.accuracies == rounds[-1].accuracies
    assert len(state.accuracies) == 4


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


def test_drawing_many_updates_at_once_draws_the_same_ones() -> None:
    """Same members, batches, progress and costs, in runs that end with the round."""
    for plan in (Plan(2, 5, 11), Plan(2, flops=60 * STEP)):
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


def fail_from(trainer: Trainer, generation: int, *names: str) -> Any:
    """An observer that lets members' updates fail once a round has begun."""

    def observe(state: SearchState, *_: Any) -> None:
        if state.generation == generation:
            chosen = {state.population[name].genome.id for name in names if name in state.population.members}  # type: ignore[index]
            trainer.failing = chosen or trainer.failing

    return observe


def run_failing(plan: Plan, *names: str, **options: Any) -> tuple[SearchState, Trainer, list[Generation]]:
    """A search in whose second round some members fail from the second update on."""
    trainer = Trainer(options.pop("updates_at_once", 1))
    state, _, rounds = run(plan, trainer=trainer, observer=fail_from(trainer, 1, *names), **options)
    return state, trainer, rounds


@pytest.mark.parametrize("plan", [Plan(2, 4, 60), Plan(2, flops=400 * STEP)])
def test_a_member_is_dropped_after_three_skipped_updates_in_a_row(plan: Plan) -> None:
    state, trainer, rounds = run_failing(plan, "m2")
    assert rounds[1].dropped == ("m2",)
    assert rounds[1].skipped == {"m2": 3}
    assert rounds[1].members == ("m0", "m1", "m3")
    assert rounds[2].skipped == {}
    assert len(rounds[2].members) == 4  # the population is filled again
    lost = state.population.birth(MemberId("m2")).genome
    assert trainer.trained.count(lost) in (3, 4)  # with the update before it began to fail
    assert trainer.synced == 4  # three rounds, and once as blocks were forgotten
    assert state.failing == {}
    assert state.step == len(trainer.trained)  # what is skipped counts as work
    losses = [n for n, genome in enumerate(trainer.trained) if rounds[0].step <= n < rounds[1].step]
    assert rounds[1].mean_loss == pytest.approx(np.mean(losses), rel=0.2)


def test_an_update_that_is_made_begins_the_count_again() -> None:
    trainer = Trainer()

    def observe(state: SearchState, *_: Any) -> None:
        trainer.failing = {SEED.id} if state.step % 3 else set()

    state, _, rounds = run(Plan(0, 20, 0), trainer=trainer, observer=observe)
    assert rounds[0].skipped == {"m0": 13}
    assert rounds[0].mean_loss == np.mean([0, 3, 6, 9, 12, 15, 18])
    assert state.failing == {"m0": 1}


def test_several_are_dropped_at_once_where_many_updates_are_drawn_at_once() -> None:
    _, _, rounds = run_failing(Plan(1, 1, 200), "m1", "m3", updates_at_once=40)
    assert set(rounds[1].dropped) == {"m1", "m3"}
    assert rounds[1].members == ("m0", "m2")


def test_the_seed_alone_can_not_be_dropped_and_ends_the_search() -> None:
    trainer = Trainer()
    trainer.failing = {SEED.id}
    with pytest.raises(GraftworkError, match=r"3 updates in a row of m0, up to step 3, and no other member is left"):
        run(Plan(1, 9, 9), trainer=trainer)


def test_the_last_member_can_not_be_dropped_and_ends_the_search() -> None:
    with pytest.raises(GraftworkError, match=r"3 updates in a row of m\d, up to step \d+, and no other"):
        run_failing(Plan(1, 1, 200), "m0", "m1", "m2", "m3")


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


def test_a_plan_survives_json() -> None:
    plan = Plan(1, 1, 4, small_share=0.3, small_size=(4, 5))
    assert Plan(**json.loads(json.dumps(asdict(plan)))) == plan
    with pytest.raises(ConfigError, match="small_share: expected a number in"):
        Plan(1, 1, 4, small_share=1.5)


def test_the_control_of_a_search_sees_images_and_rounds_of_the_same_kind() -> None:
    plan = Plan(2, 6, 2, small_share=0.4, small_size=(24, 24))
    expected = Plan(2, flops=77, initial_fraction=0.6, small_share=0.4, small_size=(24, 24))
    assert plan.alone(77) == expected
    assert expected.alone(77) == expected
