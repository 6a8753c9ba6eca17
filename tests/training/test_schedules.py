"""Every registered schedule: end points, range, errors."""

import pytest

from graftwork.errors import ConfigError
from graftwork.training import SCHEDULES, make_schedule

GRID = [number / 200 for number in range(201)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_stays_between_zero_and_one_reaches_one_and_holds_still_outside(name: str) -> None:
    schedule = make_schedule(name)
    values = [schedule(progress) for progress in GRID]
    assert all(0 <= value <= 1 for value in values)
    assert max(values) == 1
    assert schedule(-0.5) == schedule(0.0)
    assert schedule(1.5) == schedule(1.0)


@pytest.mark.parametrize(
    ("name", "options", "points"),
    [
        ("constant", {}, {0: 1, 0.5: 1, 1: 1}),
        ("linear", {}, {0: 1, 0.25: 0.75, 1: 0}),
        ("linear", {"final": 0.2}, {0: 1, 0.5: 0.6, 1: 0.2}),
        ("linear", {"warmup": 0.2}, {0: 0, 0.1: 0.5, 0.2: 1, 0.6: 0.5, 1: 0}),
        ("cosine", {}, {0: 1, 0.5: 0.5, 0.25: 0.8535533905932737, 1: 0}),
        ("cosine", {"final": 0.5, "warmup": 0.5}, {0: 0, 0.5: 1, 0.75: 0.75, 1: 0.5}),
        ("warmup-stable-decay", {"warmup": 0.1, "decay": 0.4}, {0: 0, 0.05: 0.5, 0.1: 1, 0.6: 1, 0.8: 0.5, 1: 0}),
        ("warmup-stable-decay", {"warmup": 0, "decay": 0, "final": 0.3}, {0: 1, 1: 1}),
        ("warmup-stable-decay", {"warmup": 0, "decay": 1, "final": 0.5}, {0: 1, 0.5: 0.75, 1: 0.5}),
    ],
)
def test_schedules_pass_through_the_points_that_their_options_say(
    name: str, options: dict[str, float], points: dict[float, float]
) -> None:
    schedule = make_schedule(name, **options)
    assert {progress: pytest.approx(value, abs=1e-12) for progress, value in points.items()} == {
        progress: schedule(progress) for progress in points
    }


def test_wrong_names_and_options_are_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        make_schedule("cosin")
    with pytest.raises(ConfigError, match="did you mean 'warmup'"):
        make_schedule("linear", warmpu=0.1)
    with pytest.raises(ConfigError, match="final"):
        make_schedule("cosine", final=1.5)
    with pytest.raises(ConfigError, match="decay"):
        make_schedule("warmup-stable-decay", warmup=0.6, decay=0.6)
