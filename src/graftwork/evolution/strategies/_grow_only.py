"""One network that grows: search without a population."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from graftwork.evolution._state import Round, SearchState
from graftwork.evolution.mutation import MutationReport, R2RMutation
from graftwork.evolution.strategies._common import (
    NOTHING,
    SELECTING,
    Stateless,
    drawn_evenly,
    drawn_growth,
    generator_from,
)
from graftwork.training import Evaluation
from graftwork.typing import MemberId


class GrowOnly(Stateless):
    """One network, which gets one random graft at the beginning of every round and trains on; nothing is chosen.

    It tells what choosing among members is worth: a search has to be better than this at equal FLOPs.

    Args:
        mutate: Draws the grafts, and has the limits that the network must keep.
    """

    recipe: ClassVar[Mapping[str, Any]] = {"population_size": 1, "num_survivors": 1}
    ignores: ClassVar[frozenset[str]] = SELECTING | {"population_size", "num_survivors"}

    def __init__(self, *, mutate: R2RMutation) -> None:
        self.mutate = mutate

    def draw(self, state: SearchState, count: int) -> Sequence[MemberId]:
        """Draw the one member."""
        return drawn_evenly(state, count)

    def survivors(self, state: SearchState, evaluation: Evaluation, count: int) -> tuple[MemberId, ...]:
        """Keep the one member."""
        return tuple(state.population.members)

    def propose(self, state: SearchState, now: Round) -> MutationReport:
        """Graft one block or layer onto the network, which the result replaces; the first round trains the seed."""
        if state.generation == 0:
            return NOTHING
        population, rng = state.population, state.rng
        (parent,), rejected = population.members, dict[str, int]()
        growth = drawn_growth(self.mutate, population, parent, rng=rng, rejected=rejected)
        if growth is not None and now.flops is not None and 2 * now.scorer.flops([growth.child]) > now.flops:
            growth, rejected["budget"] = None, 1  # most of the round is for training
        if growth is None:
            return MutationReport((), rejected, saturated=True)
        child = population.graft(parent, growth, generator=generator_from(rng), generation=state.generation)
        population.keep([child])
        return MutationReport((child,), rejected, saturated=False)
