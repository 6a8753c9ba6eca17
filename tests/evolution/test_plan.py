"""How a plan deals out its work, and which plans there are."""

from dataclasses import asdict
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import ConfigError
from graftwork.evolution import Plan, Plans


@given(st.integers(0, 6), st.integers(1, 10**15), st.floats(0.01, 1))
def test_flops_are_dealt_out_to_the_last_one_and_to_every_later_round_alike(
    generations: int, flops: int, fraction: float
) -> None:
    plan = Plan(generations, flops=flops, initial_fraction=fraction)
    ends = [plan.flops_until(number) for number in range(generations + 1)]
    assert ends[-1] == pytest.approx(flops)
    if generations:
        assert ends[0] == pytest.approx(fraction * flops)
        shares = [after - before for before, after in pairwise(ends)]
        assert shares == pytest.approx([(1 - fraction) * flops / generations] * generations, abs=1e-9 * flops)


@given(st.integers(0, 6), st.integers(0, 50), st.integers(0, 50))
def test_steps_are_those_of_each_round_and_progress_is_their_share(generations: int, initial: int, each: int) -> None:
    plan = Plan(generations, initial, each)
    assert [plan.steps_until(number) for number in range(generations + 1)] == [
        initial + number * each for number in range(generations + 1)
    ]
    total = plan.total_steps
    assert total == plan.steps_until(generations)
    assert [plan.progress(step, 7, 3) for step in range(total)] == [step / total for step in range(total)]
    assert [plan.share(step, 7) for step in range(total)] == [step / total for step in range(total)]


def test_progress_in_flops_counts_what_is_left_when_the_last_scoring_is_set_aside() -> None:
    plan = Plan(1, flops=100)
    assert [plan.progress(0, spent, 20) for spent in (0, 20, 40, 80)] == [0, 0.25, 0.5, 1]
    assert plan.progress(0, 95, 20) == 1
    assert [plan.share(0, spent) for spent in (0, 20, 95)] == [0, 0.2, 0.95]


@given(st.integers(0, 6), st.integers(0, 50), st.integers(0, 50))
def test_every_plan_in_steps_has_a_control_with_the_same_share_for_the_first_round(
    generations: int, initial: int, each: int
) -> None:
    """A first round without steps counts as one step: no plan in FLOPs has a first round without work."""
    alone = Plan(generations, initial, each).alone(1000)
    assert (alone.num_generations, alone.flops, alone.total_steps) == (generations, 1000, None)
    total = initial + generations * each
    assert alone.initial_fraction == (initial / total if initial else 1 / max(1, total))


def test_images_are_shrunk_before_the_share_is_done_and_not_at_it() -> None:
    def sizes(share: float) -> list[tuple[int, int] | None]:
        plan = Plan(1, 1, 1, small_share=share, small_size=(8, 6))
        return [plan.size_at(progress) for progress in (0.0, 0.3, 0.5, 0.99)]

    assert sizes(0.0) == [None] * 4
    assert sizes(0.5) == [(8, 6), (8, 6), None, None]
    assert sizes(1.0) == [(8, 6)] * 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_generations": -1, "flops": 9}, "num_generations"),
        ({"num_generations": 1}, "either initial_steps"),
        ({"num_generations": 1, "initial_steps": 1}, "either initial_steps"),
        ({"num_generations": 1, "initial_steps": 1, "steps_per_generation": 1, "flops": 9}, "either initial_steps"),
        ({"num_generations": 1, "flops": 9, "initial_fraction": 0.0}, "initial_fraction"),
        ({"num_generations": 1, "flops": 9, "initial_fraction": 1.01}, "initial_fraction"),
        ({"num_generations": 1, "flops": 9, "small_share": -0.01}, "small_share"),
    ],
)
def test_what_is_no_plan_is_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Plan(**options)


def test_a_plan_of_the_middle_of_a_search_says_where_each_round_ends() -> None:
    plan = Plan(2, flops=100, initial_fraction=0.75, ends=(40, 60, 100))
    assert [plan.flops_until(number) for number in range(3)] == [40, 60, 100]
    assert Plan(**asdict(plan) | {"ends": [40, 60, 100]}) == plan  # as JSON has it
    assert plan.alone(50) == Plan(2, flops=50, initial_fraction=0.75)


@pytest.mark.parametrize("ends", [(40, 100), (60, 40, 100), (40, 60, 99)])
def test_ends_that_do_not_fit_the_plan_are_refused(ends: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="plan: ends: expected 3 numbers of FLOPs that rise to 100"):
        Plan(2, flops=100, ends=ends)


def test_each_plan_holds_from_its_step_on() -> None:
    one, two, three = (Plan(0, flops=flops) for flops in (100, 80, 90))
    plans = Plans(one, {12: three, 5: two})
    assert [plans.at(step) for step in (0, 4, 5, 11, 12, 99)] == [one, one, two, two, three, three]
    assert (plans.latest, plans.latest_step, plans.later) == (three, 12, {5: two, 12: three})
    with pytest.raises(ConfigError, match="plans: expected a step after 12, got 12"):
        plans.add(12, one)
    assert Plans.of(plans) is plans
    assert Plans.of(one).latest is one
