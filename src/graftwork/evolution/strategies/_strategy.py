"""What a search strategy is."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from graftwork.evolution._state import SearchState
from graftwork.evolution.mutation import MutationReport
from graftwork.networks.genome import Genome
from graftwork.training import Evaluation
from graftwork.typing import MemberId


class Strategy(Protocol):
    """What a search decides. All randomness comes from ``state.rng``, so that a resume repeats it."""

    def draw(self, state: SearchState, count: int) -> Sequence[MemberId | Genome]:
        """Choose the members that train next.

        Args:
            state: The search; only its ``rng`` changes.
            count: Number of updates.

        Returns:
            One entry for each update: the id of a living member, or a genome over blocks that the bank holds. The
            genome need not be in the population (a controller that samples sub-networks draws such genomes).
        """

    def survivors(self, state: SearchState, evaluation: Evaluation, count: int) -> tuple[MemberId, ...]:
        """Choose the members that survive a round.

        Args:
            state: The search; only its ``rng`` changes.
            evaluation: What the population says about the validation split, in order of birth.
            count: K, number of survivors.

        Returns:
            min(K, size) distinct ids of living members, in order of choice.
        """

    def propose(self, state: SearchState, size: int) -> MutationReport:
        """Grow the population to a size; called at the beginning of every round but the first.

        Args:
            state: The search; population and ``rng`` change. ``state.accuracies`` are the scores of the round before.
            size: M, number of members wanted.

        Returns:
            Which members were born, and what was rejected.
        """

    def state_dict(self) -> dict[str, Any]:
        """The strategy's own state: names to tensors, or to plain data that JSON can hold."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
