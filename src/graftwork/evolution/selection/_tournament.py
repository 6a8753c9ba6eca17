"""Survivors by small contests: between greedy and random."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import ConfigError
from graftwork.evolution.selection._selector import Candidates, Selector, best_first


def check_tournament_size(size: int) -> None:
    """Raise ConfigError unless a tournament has at least one entrant."""
    if size < 1:
        raise ConfigError(f"size: expected at least 1 entrant in each tournament, got {size!r}")


def hold_tournaments(
    ranking: NDArray[np.int64], num_winners: int, *, size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Hold tournaments among members.

    Args:
        ranking: Rows of the members, int64 [member], best first.
        num_winners: Number of tournaments.
        size: Number of entrants in each.
        rng: Source of all randomness.

    Returns:
        int64 [num_winners]: winners in order; a winner enters no further tournament.
    """
    remaining = ranking.tolist()
    winners = []
    for _ in range(num_winners):
        entrants = rng.choice(len(remaining), size=min(size, len(remaining)), replace=False)
        winners.append(remaining.pop(int(entrants.min())))
    return np.array(winners, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class TournamentSelector(Selector):
    """Draw ``size`` of the remaining members, keep the most accurate of them, K times (Goldberg & Deb 1991).

    With ``size=1`` this is random selection, and with the size of the whole population it is greedy.

    Args:
        size: Number of entrants in each tournament, at least 1.

    Raises:
        ConfigError: If ``size`` is below 1.
    """

    size: int = 3

    def __post_init__(self) -> None:
        check_tournament_size(self.size)

    def choose(self, given: Candidates, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose the winners."""
        return hold_tournaments(best_first(given.scores), given.count, size=self.size, rng=rng)
