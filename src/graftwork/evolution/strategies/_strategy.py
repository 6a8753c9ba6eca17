"""What a search strategy is."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from graftwork.evolution._state import Round, SearchState
from graftwork.evolution.mutation import MutationReport
from graftwork.networks.genome import Genome
from graftwork.training import Evaluation
from graftwork.typing import MemberId

Drawable = MemberId | Genome | tuple[MemberId, ...]
"""What one update trains: a living member; a genome over blocks that the bank holds, which need not be in the
population (a controller that samples sub-networks draws such genomes); or several members together on the same batch,
each prefix that they share run once."""


class Strategy(Protocol):
    """What a search decides. All randomness comes from ``state.rng``, so that a resume repeats it."""

    def draw(self, state: SearchState, count: int) -> Sequence[Drawable]:
        """Choose what trains next.

        Args:
            state: The search; only its ``rng`` changes.
            count: Number of updates.

        Returns:
            One entry for each update; none to end the round, whose rest goes to the next.
        """

    def survivors(self, state: SearchState, evaluation: Evaluation, count: int) -> tuple[MemberId, ...]:
        """Choose the members that survive a round.

        Args:
            state: The search; only its ``rng`` changes.
            evaluation: What the population says about the validation split, in order of birth.
            count: K, number of survivors at most.

        Returns:
            Distinct ids of living members in order of choice, at least one.
        """

    def propose(self, state: SearchState, now: Round) -> MutationReport:
        """Grow the population; called at the beginning of every round, the first included.

        In the first round the population is the seed, which most strategies leave alone.

        Args:
            state: The search; population and ``rng`` change, and ``scoring_flops`` where the strategy computes itself.
                ``state.accuracies`` are the scores of the round before.
            now: What this round may do.

        Returns:
            Which members were born, and what was rejected.
        """

    def state_dict(self) -> dict[str, Any]:
        """The strategy's own state: names to tensors, or to plain data that JSON can hold."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
