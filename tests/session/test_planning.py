"""A plan is a pure function of budget, recipe, seed network, batch size, scoring FLOPs and speed."""

import pytest

from graftwork.errors import ConfigError
from graftwork.evolution import Plan
from graftwork.networks.genome import seed_genome, training_flops
from graftwork.session import Budget, make_plan, parse_budget
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


def test_time_without_a_speed_is_refused() -> None:
    with pytest.raises(ConfigError, match="budget: expected a speed to turn 10m into FLOPs"):
        planned("10m")


def test_no_budget_takes_two_thousand_updates() -> None:
    assert planned(None) == Plan(4, flops=2000 * UPDATE, initial_fraction=0.6)


def test_a_round_needs_its_scoring_and_one_step() -> None:
    enough = 20 * UPDATE  # a tenth is left for each generation: one step and one scoring

    def plan(flops: float) -> Plan:
        budget = Budget("flops", flops, f"{flops} FLOP")
        return make_plan(budget, RECIPE, GENOME, batch_size=32, scoring_flops=UPDATE)

    assert plan(enough + 10).flops == enough + 10
    with pytest.raises(ConfigError, match="for a generation"):
        plan(enough - 10)
