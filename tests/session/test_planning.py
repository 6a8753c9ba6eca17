"""A plan is a pure function of budget, recipe, seed network, batch size, scoring FLOPs and speed."""

from itertools import pairwise
from typing import Any

import pytest

from graftwork.errors import ConfigError
from graftwork.evolution import Plan
from graftwork.machine import Machine, Speed
from graftwork.networks.genome import Genome, seed_genome, training_flops
from graftwork.session import Budget, make_plan, parse_budget
from graftwork.session._planning import first_fraction, measure_speed, shared_fraction, small_size
from graftwork.training import RECIPES

GENOME = seed_genome("poster", (1, 8, 8), 10)
RECIPE = RECIPES["paper"].replace(
    num_generations=4, initial_steps=None, steps_per_generation=None, initial_fraction=0.6
)
UPDATE = training_flops(GENOME, 32)


def planned(budget: str | None, speed: float | None = None) -> Plan:
    parsed = None if budget is None else parse_budget(budget)
    return make_plan(parsed, RECIPE, GENOME, batch_size=32, scoring_flops=UPDATE, speed=speed)


def test_steps_are_divided_as_the_recipe_says() -> None:
    assert planned("100steps") == Plan(4, 60, 10)


def test_time_becomes_flops_at_the_speed_that_is_given() -> None:
    plan = planned("100s", speed=1e10)
    assert plan == Plan(4, flops=int(1e12 * 0.92), initial_fraction=0.6)


def test_a_time_that_is_over_makes_one_step() -> None:
    plan = make_plan(parse_budget("1s"), RECIPE, GENOME, batch_size=32, scoring_flops=UPDATE, speed=1e10, seconds=0.0)
    assert (plan.num_generations, plan.flops) == (0, 2 * UPDATE)


def test_speed_tells_seconds_and_how_far_they_reach() -> None:
    speed = Speed(whole=4.0, small=1.0)
    assert speed.seconds(0, 100, 40) == 40 + 15
    assert speed.seconds(60, 100, 40) == 10
    assert speed.mean(0.4) == pytest.approx(100 / 55)
    for start in (0.0, 20.0, 40.0, 70.0):
        assert speed.reach(start, speed.seconds(start, 100, 40), 0.4) == pytest.approx(100)


def test_time_without_a_speed_is_refused() -> None:
    with pytest.raises(ConfigError, match="budget: expected a speed to turn 10m into FLOPs"):
        planned("10m")


def test_no_budget_takes_two_thousand_updates() -> None:
    assert planned(None) == Plan(4, flops=2000 * UPDATE, initial_fraction=0.6)


@pytest.mark.parametrize("fraction", [0.1, 0.6, 0.9])
@pytest.mark.parametrize("scoring", [1, 3])
def test_a_budget_makes_as_many_generations_as_can_score_a_population_and_make_a_step(
    fraction: float, scoring: int
) -> None:
    recipe = RECIPE.replace(initial_fraction=fraction, population_size=5)
    one_round = (5 * scoring + 1) * UPDATE

    def plan(flops: float) -> Plan:
        budget = Budget("flops", flops, "so much")
        return make_plan(budget, recipe, GENOME, batch_size=32, scoring_flops=scoring * UPDATE)

    for wanted in range(1, 5):
        enough = max(wanted * one_round / (1 - fraction), (scoring + 1) * UPDATE / fraction)
        found = plan(enough + 10)
        assert wanted <= found.num_generations <= 4
        rounds = [found.flops_until(number) for number in range(found.num_generations + 1)]
        assert rounds[0] >= (scoring + 1) * UPDATE
        assert all(later - earlier >= one_round for earlier, later in pairwise(rounds))
        assert plan(enough - 10).num_generations < 4 or wanted < 4
    alone = plan((scoring + 1) * UPDATE)
    assert (alone.num_generations, alone.initial_fraction, alone.flops_until(0)) == (0, 1.0, (scoring + 1) * UPDATE)
    with pytest.raises(ConfigError, match="scoring and one step of the seed network"):
        plan((scoring + 1) * UPDATE - 1)


def test_a_search_of_one_round_spends_all_flops_on_it_whatever_the_recipe_says() -> None:
    recipe = RECIPE.replace(num_generations=0)
    plan = make_plan(parse_budget("1TFLOP"), recipe, GENOME, batch_size=32, scoring_flops=UPDATE)
    assert plan == Plan(0, flops=10**12, initial_fraction=1.0)


def test_a_search_of_one_round_takes_all_steps_whatever_the_recipe_says() -> None:
    plan = make_plan(
        parse_budget("100steps"), RECIPE.replace(num_generations=0), GENOME, batch_size=32, scoring_flops=UPDATE
    )
    assert plan.total_steps == 100


def test_the_first_round_has_at_least_one_step_and_steps_left_over_are_not_spent() -> None:
    recipe = RECIPE.replace(initial_fraction=0.05)
    cases = {"1steps": (0, 1, 0), "3steps": (2, 1, 1), "5steps": (4, 1, 1), "8steps": (4, 1, 1), "9steps": (4, 1, 2)}
    for budget, expected in cases.items():
        plan = make_plan(parse_budget(budget), recipe, GENOME, batch_size=32, scoring_flops=UPDATE)
        assert (plan.num_generations, plan.initial_steps, plan.steps_per_generation) == expected
        assert plan.total_steps is not None
        assert plan.total_steps <= int(budget.removesuffix("steps"))


def test_the_first_fraction_is_the_recipes_or_that_of_its_steps() -> None:
    assert first_fraction(RECIPE) == 0.6
    stepped = RECIPES["paper"].replace(initial_fraction=None, num_generations=3)
    assert first_fraction(stepped.replace(initial_steps=2, steps_per_generation=6)) == 0.1
    assert first_fraction(stepped.replace(initial_steps=2, num_generations=0)) == 1.0


def test_images_are_shrunk_to_no_less_than_sixteen_pixels_a_side() -> None:
    recipe = RECIPES["default"].replace(small_share=0.4, small_scale=0.5)

    def sizes(height: int, width: int) -> tuple[tuple[int, int] | None, float]:
        genome = seed_genome("default", (3, height, width), 10)
        plan = make_plan(parse_budget("100steps"), recipe, genome, batch_size=32, scoring_flops=1)
        assert plan.small_size == small_size(recipe, genome)
        return plan.small_size, plan.small_share

    assert sizes(32, 32) == ((16, 16), 0.4)
    assert sizes(47, 33) == ((24, 16), 0.4)  # to the nearest whole size
    assert sizes(30, 40) == sizes(40, 30) == (None, 0.0)


def test_speed_is_that_of_whole_and_shrunk_images_by_their_share_of_the_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speeds = {(3, 32, 32): 4e9, (3, 16, 16): 1e9}

    def speed(genome: Genome, **options: object) -> float:
        return speeds[genome.input_shape]

    monkeypatch.setattr("graftwork.session._planning.calibrate_speed", speed)
    genome = seed_genome("default", (3, 32, 32), 10)
    recipe = RECIPES["default"].replace(small_share=0.2, small_scale=0.5)

    def measured(share: float) -> float:
        found = measure_speed(recipe.replace(small_share=share), genome, Machine("float32"), batch_size=8)
        assert found == Speed(4e9, 1e9 if share else 4e9)
        return found.mean(share)

    assert measured(0.0) == pytest.approx(4e9)
    assert measured(0.2) == pytest.approx(1 / (0.8 / 4e9 + 0.2 / 1e9))


def test_workers_share_batches_in_the_first_round_or_always_where_members_are_few() -> None:
    recipe = RECIPE.replace(population_size=6)

    def shared(workers: int, *, sync_every: int = 16, batch_size: int = 32) -> float:
        return shared_fraction(recipe, sync_every=sync_every, batch_size=batch_size, num_workers=workers)

    assert [shared(1), shared(6), shared(7)] == [0.6, 0.6, 1.0]
    assert shared(2, sync_every=0) == 1.0
    assert [shared(4, batch_size=8), shared(5, batch_size=8)] == [0.6, 0.0]  # two images a worker


def test_speed_is_timed_where_and_how_the_run_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    def calibrate(network: Genome, **how: Any) -> float:
        seen.append((network, how["device"], how["precision"], how["batch_size"]))
        return 1e10

    monkeypatch.setattr("graftwork.session._planning.calibrate_speed", calibrate)
    measure_speed(RECIPE, GENOME, Machine("bfloat16", "torch", 1), batch_size=7, device="meta")
    assert seen == [(GENOME, "meta", "bfloat16", 7)]
