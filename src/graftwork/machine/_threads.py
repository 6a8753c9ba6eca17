"""Threads: more than one only where a training step is clearly faster on them."""

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

import torch

from graftwork.machine._machine import Machine

_GAIN = 1.1
"""How many times faster a step must be for more threads to be taken: a tie leaves cores to other work, and noise must
not decide."""

_ROUNDS = 8
"""Most times that each number of threads is timed."""


def candidate_threads(most: int) -> tuple[int, ...]:
    """Numbers of threads worth timing: 1 and ``most``, and above four also the powers of two between them."""
    between = [2**power for power in range(1, most.bit_length()) if 2**power < most] if most > 4 else []
    return tuple(sorted({1, *between, most}))


def _step_seconds(step: Callable[[], object], threads: int) -> float:
    torch.set_num_threads(threads)
    torch.ones(threads << 15)  # threads are made here, so that making them is not timed
    start = perf_counter()
    step()
    return perf_counter() - start


def measure_threads(
    step: Callable[[], object], *, machine: Machine | None = None, most: int | None = None, limit_seconds: float = 0.6
) -> Machine:
    """Time a step on one thread and on more, in turns, and choose.

    Each number is compared by its best time, from few threads to many; more are taken where they are at least a tenth
    faster than what was taken before. The process then has as many threads as before.

    Args:
        step: Makes one step; called up to eight times for each number of threads.
        machine: What is chosen so far; ``None``: nothing.
        most: Threads at most; ``None``: as many as the process has now.
        limit_seconds: About how long to go on timing. Every number is timed once, however long that takes.

    Returns:
        The machine with the fewest threads that nothing beats clearly, and what was measured for them.
    """
    before = torch.get_num_threads()
    counts = candidate_threads(most or before)
    machine = machine or Machine()
    if len(counts) == 1:
        return _with_threads(machine, counts[0], "the process has one thread", {})
    best = dict.fromkeys(counts, float("inf"))
    spent = 0.0
    try:
        for number in range(_ROUNDS):
            found = {count: _step_seconds(step, count) for count in reversed(counts)}
            # the first round prepares kernels: it counts only if there is no other
            best = found if number < 2 else {count: min(best[count], found[count]) for count in counts}
            spent += sum(found.values())
            if spent + sum(found.values()) > limit_seconds:
                break
    finally:
        torch.set_num_threads(before)
    chosen = counts[0]
    for count in counts[1:]:
        if best[count] * _GAIN < best[chosen]:
            chosen = count
    words = ", ".join(f"{1e3 * best[count]:.3g} ms on {count}" for count in counts)
    reason = f"a step takes {words}; more threads are taken where they are {_GAIN:g} times faster"
    return _with_threads(machine, chosen, reason, {_name(count): seconds for count, seconds in best.items()})


def _name(count: int) -> str:
    """Name a number of threads as `Machine.seconds` does: ``"1 thread"``, ``"2 threads"``."""
    return f"{count} thread" + ("s" if count > 1 else "")


def _with_threads(machine: Machine, threads: int, reason: str, seconds: dict[str, float]) -> Machine:
    reasons = {**machine.reasons, "threads": reason}
    return replace(machine, threads=threads, reasons=reasons, seconds={**machine.seconds, **seconds})
