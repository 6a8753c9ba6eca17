"""Threads are chosen by the times of a step, fewer where more gain little, and choosing changes nothing else."""

from collections.abc import Callable, Iterator

import pytest
import torch

from graftwork.machine import Machine, TimedNetwork, candidate_threads, measure_threads
from graftwork.machine import _threads as module
from tests.training.small import LEFT, RULES


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def clock(monkeypatch: pytest.MonkeyPatch, times: dict[int, list[float]]) -> list[int]:
    """Steps take the times given for their number of threads, the last one ever after; returns who was timed."""
    timed: list[int] = []

    def step_seconds(step: Callable[[], object], threads: int) -> float:
        timed.append(threads)
        row = times[threads]
        return row[min(timed.count(threads), len(row)) - 1]

    monkeypatch.setattr(module, "_step_seconds", step_seconds)
    return timed


def choose(most: int, limit_seconds: float = 100.0) -> Machine:
    return measure_threads(lambda: None, most=most, limit_seconds=limit_seconds)


def named(times: dict[int, float]) -> dict[str, float]:
    """The same by the names that a machine gives them."""
    return {f"{count} thread{'s' if count > 1 else ''}": seconds for count, seconds in times.items()}


@pytest.mark.parametrize(
    ("most", "expected"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 3)), (4, (1, 4)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8)), (12, (1, 2, 4, 8, 12))],
)
def test_one_and_all_threads_are_candidates_and_powers_between_where_there_are_many(
    most: int, expected: tuple[int, ...]
) -> None:
    assert candidate_threads(most) == expected


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({1: 1.0, 2: 0.5}, 2),
        ({1: 1.0, 2: 0.95}, 1),  # faster, but not clearly
        ({1: 1.0, 2: 1.0}, 1),
        ({1: 0.3, 2: 1.0}, 1),
        ({1: 1.0, 2: 0.6, 4: 0.57, 8: 0.56}, 2),  # more than two gain little
        ({1: 1.0, 2: 0.95, 4: 0.5, 8: 0.4}, 8),
        ({1: 1.0, 2: 0.5, 4: 0.3, 8: 0.6}, 4),
    ],
)
def test_more_threads_are_taken_only_where_they_win_clearly(
    monkeypatch: pytest.MonkeyPatch, times: dict[int, float], expected: int
) -> None:
    clock(monkeypatch, {count: [seconds] for count, seconds in times.items()})
    machine = choose(max(times))
    assert machine.threads == expected
    assert machine.seconds == named(times)


def test_neither_the_first_steps_nor_a_disturbance_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, {1: [0.1, 1.0, 1.0, 5.0, 1.0], 2: [9.0, 7.0, 0.5, 8.0]})
    machine = choose(2)
    assert (machine.threads, machine.seconds) == (2, named({1: 1.0, 2: 0.5}))


def test_timing_ends_at_its_limit_after_one_round_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = clock(monkeypatch, {1: [4.0], 2: [2.0]})
    assert choose(2, limit_seconds=1.0).threads == 2
    assert sorted(timed) == [1, 2]
    timed.clear()
    choose(2, limit_seconds=20.0)
    assert len(timed) == 6  # a fourth round would have ended after 24 seconds
    timed.clear()
    clock(monkeypatch, {1: [0.0], 2: [0.0]})
    choose(2)
    assert len(timed) <= 16


def test_one_thread_needs_no_step() -> None:
    def step() -> None:
        raise AssertionError

    machine = measure_threads(step, most=1)
    assert (machine.threads, machine.seconds) == (1, {})


def test_measuring_leaves_threads_and_the_global_generator_alone() -> None:
    expected = torch.rand(3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    network, seen = TimedNetwork(LEFT, rules=RULES["adam"], batch_size=8), set()

    def step() -> None:
        seen.add(torch.get_num_threads())
        network.step()

    machine = measure_threads(step, most=2, limit_seconds=0.01)
    assert seen == {1, 2}
    assert set(machine.seconds) == {"1 thread", "2 threads"}
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.rand(3), expected)

    def broken() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        measure_threads(broken, most=2)
    assert torch.get_num_threads() == 1


def test_what_was_chosen_before_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, {1: [1.0], 2: [0.5]})
    earlier = Machine("bfloat16", "compiled", 1, reasons={"precision": "why"}, seconds={"bfloat16": 0.25})
    machine = measure_threads(lambda: None, machine=earlier, most=2)
    assert (machine.precision, machine.passes, machine.threads) == ("bfloat16", "compiled", 2)
    assert machine.reasons["precision"] == "why"
    assert machine.seconds == {"bfloat16": 0.25, "1 thread": 1.0, "2 threads": 0.5}
