"""A family: one network that grows, and a finished network of every size that it has had."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from graftwork.evolution._state import Round, SearchState
from graftwork.evolution.mutation import MutationReport, R2RMutation
from graftwork.evolution.strategies._common import (
    DRAWING,
    NOTHING,
    SELECTING,
    generator_from,
    with_own_ids,
)
from graftwork.evolution.transforms import Growth, R2RWiden, compose, even
from graftwork.networks.genome import Genome, Layer, forward_flops, num_parameters
from graftwork.training import Evaluation
from graftwork.typing import MemberId

SMALLEST = 0.25
"""Hidden channels of the first size, as a share of the seed's."""
TRUNK = 2 / 3
"""Share of the work that the growing network gets; in the rest the rates fall, and all sizes are finished."""


class Family:
    """One network grows, the trunk, and leaves a copy of itself at every size; in the last round all are finished.

    The trunk begins with a quarter of the seed's hidden channels and gets as many again at the beginning of every
    round but the last, so that five sizes reach four times the seed. Before it grows, a copy with weights of its own
    stays behind. Every size trains for as many updates, at a rate that stays. In the last round the rates fall to zero
    and the copies and the trunk train in turn, as often each: a branch for each size from one stable phase. Optimizers'
    moments of a copy begin again.

    Args:
        mutate: Has the limits that a size keeps; one that breaks them is not made, and the trunk trains on.
    """

    recipe: ClassVar[Mapping[str, Any]] = {
        "population_size": 5,
        "num_survivors": 5,
        "num_generations": 5,
        "initial_fraction": 0.15,
        "schedule": "warmup-stable-decay",
        "schedule_options": {"warmup": 0.0, "decay": 1 - TRUNK},
        "small_share": 0.0,
    }
    ignores: ClassVar[frozenset[str]] = SELECTING | DRAWING | {"random_padding", "hidden_multiple", "control"}

    def __init__(self, *, mutate: R2RMutation) -> None:
        self.mutate = mutate
        self._stop: float | None = None  # updates or FLOPs of the search at which the trunk has trained enough
        self._counts_steps = False
        self._finishing = False
        self._turn = 0  # of the last round

    @staticmethod
    def begin(seed: Genome) -> Genome:
        """The first size: the seed with a quarter of its hidden channels."""
        body = [
            replace(item, blocks=tuple(replace(b, hidden_channels=_quarter(b.hidden_channels)) for b in item.blocks))
            if isinstance(item, Layer)
            else item
            for item in seed.body
        ]
        return seed.replace(body=tuple(body))

    @staticmethod
    def outlook(first: Genome, rounds: int) -> str:
        """The sizes that are planned, from the first network on."""
        rng, sizes = np.random.default_rng(0), [first]
        while len(sizes) < rounds:
            sizes.append(_doubled(sizes[-1], rng).child)
        costs = ", ".join(f"{forward_flops(genome) / 1e6:.3g}" for genome in sizes)
        return (
            f"{len(sizes)} sizes of {costs} MFLOPs an image and {num_parameters(sizes[0]):,} to "
            f"{num_parameters(sizes[-1]):,} parameters, for the one budget; a size that a limit or the budget forbids "
            "is left out"
        )

    def draw(self, state: SearchState, count: int) -> Sequence[MemberId]:
        """Draw the trunk, until it has trained enough for its size; in the last round every member in turn."""
        if self._finishing:
            members, first = list(state.population.members), self._turn
            self._turn += count
            return [members[turn % len(members)] for turn in range(first, self._turn)]
        if self._stop is not None and (state.step if self._counts_steps else state.spent_flops) >= self._stop:
            return []
        return [_trunk(state)] * count

    def survivors(self, state: SearchState, evaluation: Evaluation, count: int) -> tuple[MemberId, ...]:
        """Keep all sizes; where there is no room for all, the largest."""
        return tuple(state.population.members)[-count:]

    def propose(self, state: SearchState, now: Round) -> MutationReport:
        """Leave a copy of the trunk behind and grow it; in the last round nothing grows."""
        self._finishing = state.generation > 0 and now.rounds_after == 0
        report = NOTHING if self._finishing or state.generation == 0 else self._grown(state, now)
        self._counts_steps = now.steps is not None
        self._stop = None if now.total is None or now.rounds_after == 0 else self._enough(state, now, now.total)
        return report

    def _enough(self, state: SearchState, now: Round, total: float) -> float:
        """Updates or FLOPs of the search at the end of this round: every size gets as many updates.

        Worked example, five sizes whose updates cost 1, 2, 4, 8 and 16, and 46.5 FLOPs: the trunk has 2/3 of them, 31,
        so one update of each size; its rounds end at 1, 3, 7, 15 and 31.
        """
        sizes, number = state.generation + now.rounds_after, state.generation
        shares = np.cumsum(np.ones(sizes) if self._counts_steps else 2.0 ** np.arange(sizes))
        return float(TRUNK * total * shares[number] / shares[-1])

    def _grown(self, state: SearchState, now: Round) -> MutationReport:
        population, rng, trunk = state.population, state.rng, _trunk(state)
        genome = population[trunk].genome
        growth = _doubled(genome, rng)
        broken = self.mutate.broken_limit(growth, population.bank.num_parameters if self.mutate.memory else 0)
        if broken is None and len(population) >= now.size:
            broken = "population_size"
        if broken is None and now.flops is not None:
            needed = now.scorer.flops([*population.genomes, growth.child])
            broken = "budget" if 2 * needed > now.flops else None  # most of the round is for training
        if broken is not None:
            return MutationReport((), {broken: 1}, saturated=True)
        copy, names = with_own_ids(genome, rng)
        for new, old in names.items():
            population.bank.copy(old, new)
        kept = population.adopt(copy, parent=trunk, transform="a copy of this size", generation=state.generation)
        child = population.graft(trunk, growth, generator=generator_from(rng), generation=state.generation)
        population.keep([member for member in population.members if member != trunk])
        return MutationReport((kept, child), {}, saturated=False)

    def state_dict(self) -> dict[str, Any]:
        """Keep what this round is for and when it ends."""
        own = {"counts_steps": self._counts_steps, "finishing": self._finishing, "turn": self._turn}
        return {"stop": self._stop, **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the same round."""
        self._stop, self._counts_steps = state["stop"], bool(state["counts_steps"])
        self._finishing, self._turn = bool(state["finishing"]), int(state["turn"])


def _quarter(hidden: int) -> int:
    return even(SMALLEST * hidden)


def _trunk(state: SearchState) -> MemberId:
    """The member that grows: the youngest."""
    return list(state.population.members)[-1]


def _doubled(genome: Genome, rng: np.random.Generator) -> Growth:
    """As many hidden channels again in every layer: a block for each kernel size and range of channels."""
    widens = []
    for position, item in enumerate(genome.body):
        if isinstance(item, Layer):
            hidden: dict[tuple[int, int, int], int] = {}
            for block in item.blocks:
                key = (block.kernel_size, block.start, block.stop)
                hidden[key] = hidden.get(key, 0) + block.hidden_channels
            widens += [R2RWiden(position, size, count, (a, b)) for (size, a, b), count in hidden.items()]
    return replace(compose(*widens)(genome, rng=rng), transform="twice the hidden channels")
