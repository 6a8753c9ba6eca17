"""Threads are chosen by the times of a step, fewer where more gain little, and choosing changes nothing else."""

import json
from collections.abc import Callable, Iterator

import pytest
import torch

from graftwork.errors import ConfigError
from graftwork.machine import ThreadsChoice, Throwaway, candidate_threads, measure_threads
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


def choose(most: int, limit_seconds: float = 100.0) -> ThreadsChoice:
    return measure_threads(lambda: None, most=most, limit_seconds=limit_seconds)


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
    choice = choose(max(times))
    assert choice.threads == expected
    assert dict(zip(choice.counts, choice.step_seconds, strict=True)) == times


def test_neither_the_first_steps_nor_a_disturbance_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, {1: [0.1, 1.0, 1.0, 5.0, 1.0], 2: [9.0, 7.0, 0.5, 8.0]})
    choice = choose(2)
    assert (choice.threads, choice.step_seconds) == (2, (1.0, 0.5))


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

    choice = measure_threads(step, most=1)
    assert (choice.threads, choice.counts) == (1, ())


def test_measuring_leaves_threads_and_the_global_generator_alone() -> None:
    expected = torch.rand(3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    network, seen = Throwaway(LEFT, rules=RULES["adam"], batch_size=8), set()

    def step() -> None:
        seen.add(torch.get_num_threads())
        network.step()

    choice = measure_threads(step, most=2, limit_seconds=0.01)
    assert seen == {1, 2}
    assert choice.counts == (1, 2)
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.rand(3), expected)

    def broken() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        measure_threads(broken, most=2)
    assert torch.get_num_threads() == 1


def test_a_choice_survives_json_and_says_what_is_wrong() -> None:
    choice = ThreadsChoice(2, "why", (1, 2), (0.5, 0.25))
    assert ThreadsChoice.from_dict(json.loads(json.dumps(choice.to_dict()))) == choice
    with pytest.raises(ConfigError, match="expected an integer >= 1, got 0"):
        ThreadsChoice(0, "why")
    with pytest.raises(ConfigError, match="a time for each of 2 counts, got 1"):
        ThreadsChoice(1, "why", (1, 2), (0.5,))
