"""Threads: more than one only where the run's own step is clearly faster by them."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import torch

from graftwork.errors import ConfigError

_GAIN = 1.1
"""How many times faster a step must be for more threads to be taken: a tie leaves cores to other work, and noise alone
must not decide."""

_ROUNDS = 8
"""At most so many times is each number of threads timed."""


@dataclass(frozen=True, slots=True)
class ThreadsChoice:
    """How many threads were chosen and what was measured for it, for the run's provenance.

    Args:
        threads: Of torch's CPU operations and of the compiled passes.
        reason: In words.
        counts: Numbers of threads that were timed; empty where there was nothing to compare.
        step_seconds: Best time of one training step by each of them.

    Raises:
        ConfigError: If ``threads`` is below 1, or there are not as many times as counts.
    """

    threads: int
    reason: str
    counts: tuple[int, ...] = ()
    step_seconds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ConfigError(f"threads: expected an integer >= 1, got {self.threads!r}")
        if len(self.counts) != len(self.step_seconds):
            raise ConfigError(
                f"threads: expected a time for each of {len(self.counts)} counts, got {len(self.step_seconds)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; `from_dict` gives an equal choice back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ThreadsChoice":
        """From plain data, which has no tuples."""
        return cls(data["threads"], data["reason"], tuple(data["counts"]), tuple(data["step_seconds"]))


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
    step: Callable[[], object], *, most: int | None = None, limit_seconds: float = 0.6
) -> ThreadsChoice:
    """Time a step by one thread and by more, by turns, and choose.

    Each number is compared by its best time, from few threads to many; more are taken where they are at least a tenth
    faster than what was taken before. The process then has as many threads as before.

    Args:
        step: Makes one step; called up to eight times for each number of threads.
        most: Threads at most; ``None``: as many as the process has now.
        limit_seconds: About how long to go on timing. Every number is timed once, however long that takes.

    Returns:
        The fewest threads that nothing beats clearly, and what was measured.
    """
    before = torch.get_num_threads()
    counts = candidate_threads(most or before)
    if len(counts) == 1:
        return ThreadsChoice(counts[0], "the process has one thread")
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
    words = ", ".join(f"{1e3 * best[count]:.3g} ms by {count}" for count in counts)
    reason = f"a step takes {words}; more threads are taken where they are {_GAIN:g} times faster"
    return ThreadsChoice(chosen, reason, counts, tuple(best[count] for count in counts))
