"""Losses are recorded from the first update on, and by the numbers of the updates alone."""

from types import SimpleNamespace
from typing import Any

from graftwork.session._losses import LossLog


def _recorded(steps: list[int], *, first: int = 0, loss: float = 1.0) -> list[int]:
    log = LossLog("search", lambda progress: 1 - progress, first)
    for step in steps:
        state: Any = SimpleNamespace(step=step, generation=0)
        log.add(state, loss, step / 1000)
    rows = log.take()
    assert log.take() == []
    assert all(abs(row.rate - (1 - row.step / 1000)) < 1e-9 for row in rows)
    return [row.step for row in rows]


def test_every_update_is_recorded_at_first_and_thirty_two_between_powers_of_two_later() -> None:
    found = _recorded(list(range(1, 1001)))
    assert found[:64] == list(range(1, 65))
    assert len([step for step in found if 128 <= step < 256]) == 32
    assert len([step for step in found if step >= 512]) == 31


def test_what_is_recorded_does_not_depend_on_where_a_stage_was_cut() -> None:
    whole = _recorded(list(range(1, 301)))
    for cut in (1, 63, 64, 100, 101):
        assert _recorded(list(range(1, cut + 1))) + _recorded(list(range(cut + 1, 301)), first=cut) == whole


def test_updates_that_are_made_at_once_are_recorded_where_one_of_them_would_be() -> None:
    assert _recorded([4, 8, 12]) == [4, 8, 12]
    assert len(_recorded(list(range(203, 1000, 3)))) > 60
    assert _recorded([1, 2, 3], loss=float("nan")) == []
