"""First looks: what the seed network would score, while the first round is still going on."""

from collections.abc import Callable

from graftwork.evolution import SearchState
from graftwork.session._setup import Setup

_FIRST = 10.0
"""Seconds after which there is a first look; there are others at twice, four times, … as many."""


class Looks:
    """Scores the seed network now and then, as the first round may take most of the time.

    A look leaves no trace: statistics are put back, and no FLOPs are counted. So a run has the same bits however fast
    its machine is.

    Args:
        setup: The search.
        clock: Seconds since its start.
    """

    def __init__(self, setup: Setup, clock: Callable[[], float]) -> None:
        self._setup, self._clock = setup, clock
        self._began, self._next = clock(), _FIRST

    def accuracy(self, state: SearchState) -> float | None:
        """Share of the validation split that is told right; ``None`` where it is not time for a look."""
        if state.generation > 0 or self._clock() - self._began < self._next:
            return None
        members = list(state.population)
        before = [dict(member.statistics) for member in members]
        correct = self._setup.scorer.score(members)
        for member, statistics in zip(members, before, strict=True):
            member.statistics.update(statistics)
        self._next *= 2
        return float(correct[0].mean())
