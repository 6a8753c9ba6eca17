"""The poster's strategy."""

from collections.abc import Callable, Sequence

from graftwork.evolution._state import Round, SearchState
from graftwork.evolution.mutation import MutationReport, Mutator
from graftwork.evolution.selection import Selector
from graftwork.evolution.strategies._common import NOTHING, Stateless, drawn_evenly, selected
from graftwork.networks.genome import Genome, forward_flops
from graftwork.training import Evaluation
from graftwork.typing import MemberId


class Neuroevolution(Stateless):
    """Algorithm 1: members to train are drawn at random, a selector chooses, random mutations refill the population.

    Args:
        selector: Choice of survivors from what each member classifies correctly.
        mutate: Mutation that grows the population to a size.
        cost: What a network costs: forward FLOPs of one image by default; of selectors, ``pareto`` looks at it.
    """

    def __init__(self, *, selector: Selector, mutate: Mutator, cost: Callable[[Genome], float] = forward_flops) -> None:
        self.selector = selector
        self.mutate = mutate
        self.cost = cost

    def draw(self, state: SearchState, count: int) -> Sequence[MemberId]:
        """Draw members uniformly, with replacement."""
        return drawn_evenly(state, count)

    def survivors(self, state: SearchState, evaluation: Evaluation, count: int) -> tuple[MemberId, ...]:
        """Let the selector choose."""
        return selected(self.selector, state, evaluation, count, cost=self.cost)

    def propose(self, state: SearchState, now: Round) -> MutationReport:
        """Mutate members that are drawn uniformly; the first round trains the seed alone."""
        if state.generation == 0:
            return NOTHING
        return self.mutate(state.population, now.size, rng=state.rng, generation=state.generation)
