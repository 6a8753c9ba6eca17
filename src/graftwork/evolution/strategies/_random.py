"""Random search with successive halving: the control of every other strategy."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from graftwork.evolution._state import Round, SearchState
from graftwork.evolution.mutation import MutationReport, R2RMutation
from graftwork.evolution.selection import Selector
from graftwork.evolution.strategies._common import (
    NOTHING,
    Stateless,
    drawn_evenly,
    generator_from,
    selected,
    with_own_ids,
)
from graftwork.evolution.transforms import Growth
from graftwork.networks.bank import grow_bank
from graftwork.networks.genome import Genome, forward_flops
from graftwork.training import Evaluation
from graftwork.typing import Initialisation, MemberId


class RandomSearch(Stateless):
    """Random networks, each trained alone from new weights; every round the better half goes on.

    The networks are the seed and others that it could have grown into: it is grown by a number of random transforms
    that is drawn uniformly, and gets blocks of its own. Nothing is shared, nothing inherited, and nobody is born after
    the first round (successive halving, Jamieson & Talwalkar 2016).

    Args:
        selector: Choice of survivors.
        mutate: Draws the transforms, and has the limits that a network must keep.
        cost: What a network costs, for selectors that look at it.
        initialisation: How new blocks begin.
        most_growths: Number of transforms that a network is grown by, at most.
    """

    recipe: ClassVar[Mapping[str, Any]] = {
        "population_size": 8,
        "num_survivors": 4,
        "num_generations": 3,
        "initial_fraction": 0.25,
    }
    ignores: ClassVar[frozenset[str]] = frozenset({"min_shared_fraction", "random_padding"})

    def __init__(
        self,
        *,
        selector: Selector,
        mutate: R2RMutation,
        cost: Callable[[Genome], float] = forward_flops,
        initialisation: Initialisation = "random",
        most_growths: int = 6,
    ) -> None:
        self.selector = selector
        self.mutate = mutate
        self.cost = cost
        self.initialisation: Initialisation = initialisation
        self.most_growths = most_growths

    def draw(self, state: SearchState, count: int) -> Sequence[MemberId]:
        """Draw members uniformly, with replacement."""
        return drawn_evenly(state, count)

    def survivors(self, state: SearchState, evaluation: Evaluation, count: int) -> tuple[MemberId, ...]:
        """Let the selector choose half of the members, and no more than K."""
        half = -(-len(state.population) // 2)
        return selected(self.selector, state, evaluation, min(count, half), cost=self.cost)

    def propose(self, state: SearchState, now: Round) -> MutationReport:
        """Fill the population in the first round; later ones add nothing."""
        if state.generation > 0:
            return NOTHING
        population, rng = state.population, state.rng
        seed, born, rejected, in_a_row = population.genomes[0], list[MemberId](), dict[str, int](), 0
        while len(population) < now.size and in_a_row < self.mutate.max_rejections:
            genome, count = seed, int(rng.integers(self.most_growths + 1))
            for _ in range(count):
                genome = self.mutate.draw(genome, rng=rng)(genome, rng=rng).child
            own, names = with_own_ids(genome, rng)
            broken = self.mutate.broken_limit(Growth(seed, own, "random"), population.bank.num_parameters, new=True)
            if broken is not None:
                rejected[broken] = rejected.get(broken, 0) + 1
                in_a_row += 1
                continue
            if own.stem.kind != "none":  # a whitening stem is made from the data, so it can't be drawn
                population.bank.copy(names[own.stem.id], own.stem.id)
            grow_bank(population.bank, own, generator=generator_from(rng), initialisation=self.initialisation)
            born.append(population.adopt(own, parent=None, transform=f"random network of {count} growths"))
            in_a_row = 0
        return MutationReport(tuple(born), rejected, saturated=len(population) < now.size)
