"""The poster's strategy."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graftwork.evolution._state import SearchState
from graftwork.evolution.mutation import MutationReport, Mutator
from graftwork.evolution.selection import Selector
from graftwork.metrics import OF_WHOLE_MEMBERS
from graftwork.networks.genome import Genome, forward_flops
from graftwork.training import Evaluation
from graftwork.typing import MemberId


class Neuroevolution:
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
        members = list(state.population.members)
        return [members[int(state.rng.integers(len(members)))] for _ in range(count)]

    def survivors(self, state: SearchState, evaluation: Evaluation, count: int) -> tuple[MemberId, ...]:
        """Let the selector choose."""
        members = list(state.population.members)
        costs = np.array([self.cost(genome) for genome in state.population.genomes], dtype=np.float64)
        chosen = self.selector.select(
            evaluation.correct,
            costs,
            count,
            state.rng,
            classes=evaluation.labels if evaluation.metric == "balanced-accuracy" else None,
            scores=evaluation.scores if evaluation.metric in OF_WHOLE_MEMBERS else None,
        )
        return tuple(members[row] for row in chosen)

    def propose(self, state: SearchState, size: int) -> MutationReport:
        """Mutate members that are drawn uniformly."""
        return self.mutate(state.population, size, rng=state.rng, generation=state.generation)

    def state_dict(self) -> dict[str, Any]:
        """An empty dictionary: all that changes is in the search's state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load nothing, as there is no state."""
