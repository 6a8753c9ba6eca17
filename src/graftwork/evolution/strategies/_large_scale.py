"""Large-scale evolution (Real et al. 2017): tournaments of two, and children that copy their parent's weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from graftwork.evolution._state import Round, SearchState
from graftwork.evolution.mutation import MutationReport, R2RMutation
from graftwork.evolution.strategies._common import (
    DRAWING,
    NOTHING,
    SELECTING,
    best_members,
    drawn_evenly,
    generator_from,
    with_own_ids,
)
from graftwork.evolution.transforms import Growth, R2RDeepen, R2RWiden, even, new_block_id
from graftwork.networks.bank import entry_shapes, grow_bank
from graftwork.networks.genome import Block, Genome, Layer
from graftwork.training import Evaluation
from graftwork.typing import KERNEL_SIZES, Initialisation, MemberId


@dataclass(frozen=True, slots=True)
class Change:
    """What one mutation does to a network.

    Args:
        genome: The network after it; blocks that stay keep their ids.
        text: What was done, as a phrase.
        twins: Whether new blocks begin as twins, whose output is zero; otherwise they begin at random.
        reset: Whether all weights begin again.
        rate: Factor on the learning rate.
    """

    genome: Genome
    text: str
    twins: bool = False
    reset: bool = False
    rate: float = 1.0


def _sites(genome: Genome) -> list[tuple[int, int]]:
    """Position of the layer, and index in it, of every block."""
    return [
        (at, row) for at, item in enumerate(genome.body) if isinstance(item, Layer) for row in range(len(item.blocks))
    ]


def _with_block(genome: Genome, rng: np.random.Generator, change: Callable[[Block], Block | None]) -> Genome:
    """Change a block that is drawn, or take it out (``None``), and with the last one its layer."""
    sites = _sites(genome)
    at, row = sites[int(rng.integers(len(sites)))]
    layer, body = genome.body[at], list(genome.body)
    assert isinstance(layer, Layer)
    blocks, new = list(layer.blocks), change(layer.blocks[row])
    blocks[row : row + 1] = [] if new is None else [new]
    body[at : at + 1] = [replace(layer, blocks=tuple(blocks))] if blocks else []
    return genome.replace(body=tuple(body))


def _alter_rate(genome: Genome, rng: np.random.Generator, hidden: float) -> Change:
    factor = float(2 ** rng.uniform(-1, 1))
    return Change(genome, f"alter learning rate by {factor:.3g}", rate=factor)


def _identity(genome: Genome, rng: np.random.Generator, hidden: float) -> Change:
    return Change(genome, "identity")


def _reset(genome: Genome, rng: np.random.Generator, hidden: float) -> Change:
    return Change(genome, "reset weights", reset=True)


def _insert(genome: Genome, rng: np.random.Generator, hidden: float) -> Change:
    position = 1 + int(rng.integers(len(genome.body)))
    width = list(genome.steps())[position - 1].out_shape[0]
    growth = R2RDeepen(position, (3,), even(width * hidden))(genome, rng=rng)
    return Change(growth.child, f"insert convolution: {growth.transform}", twins=True)


def _widen(genome: Genome, rng: np.random.Generator, hidden: float) -> Change:
    places = [at for at, item in enumerate(genome.body) if isinstance(item, Layer)]
    position = places[int(rng.integers(len(places)))]
    width = list(genome.steps())[position].out_shape[0]
    growth = R2RWiden(position, int(rng.choice(KERNEL_SIZES)), even(width * hidden))(genome, rng=rng)
    return Change(growth.child, growth.transform, twins=True)


def _remove(genome: Genome, rng: np.random.Generator, hidden: float) -> Change:
    if len(_sites(genome)) == 1:
        return Change(genome, "identity, as there is one convolution")
    return Change(_with_block(genome, rng, lambda block: None), "remove convolution")


def _channels(genome: Genome, rng: np.random.Generator, hidden: float) -> Change:
    def changed(block: Block) -> Block:
        size = even(rng.uniform(block.hidden_channels / 2, block.hidden_channels * 2))
        return replace(block, id=new_block_id(block.kernel_size, rng), hidden_channels=size)

    return Change(_with_block(genome, rng, changed), "alter number of channels")


def _filter_size(genome: Genome, rng: np.random.Generator, hidden: float) -> Change:
    def changed(block: Block) -> Block:
        size = int(rng.choice([size for size in KERNEL_SIZES if size != block.kernel_size]))
        return replace(block, id=new_block_id(size, rng), kernel_size=size)

    return Change(_with_block(genome, rng, changed), "alter filter size")


MUTATIONS: Mapping[str, Callable[[Genome, np.random.Generator, float], Change]] = MappingProxyType(
    {
        "alter-learning-rate": _alter_rate,
        "identity": _identity,
        "reset-weights": _reset,
        "insert-convolution": _insert,
        "remove-convolution": _remove,
        "alter-number-of-channels": _channels,
        "filter-size": _filter_size,
        "widen": _widen,
    }
)
"""The paper's mutations that a genome can express, and widening by a parallel block in place of its skip connections;
functions of a genome, a source of randomness, and the hidden channels of a new block as a multiple of its layer's."""


class LargeScaleEvolution:
    """Evolution of independent networks (Real et al. 2017, arXiv 1703.01041).

    Two members are drawn at random, the worse dies, the better has a child, and again until K are left. A child is a
    mutated copy: it inherits the weights of every entry whose shape is the same, shares nothing, and alone is trained;
    its parent stays as it is. The mutation is drawn uniformly from `MUTATIONS`.

    Args:
        mutate: The limits that children keep, and the width of new blocks.
        initialisation: How weights begin that are not inherited.
    """

    ignores: ClassVar[frozenset[str]] = SELECTING | DRAWING | {"random_padding"}

    def __init__(self, *, mutate: R2RMutation, initialisation: Initialisation = "random") -> None:
        self.mutate = mutate
        self.initialisation: Initialisation = initialisation
        self._parents: list[MemberId] = []

    def draw(self, state: SearchState, count: int) -> Sequence[MemberId]:
        """Draw uniformly among the children of this round."""
        born = [member for member in state.report.born if member in state.population.members]
        if not born:
            return drawn_evenly(state, count)
        return [born[int(state.rng.integers(len(born)))] for _ in range(count)]

    def survivors(self, state: SearchState, evaluation: Evaluation, count: int) -> tuple[MemberId, ...]:
        """Hold tournaments of two until K are left; the children of a winner that dies later are its killer's."""
        alive, self._parents = list(state.population.members), []
        scores = dict(zip(alive, evaluation.scores, strict=True))
        while len(alive) > count:
            older, younger = sorted(int(row) for row in state.rng.choice(len(alive), size=2, replace=False))
            pair = alive[older], alive[younger]
            winner, loser = pair if scores[pair[0]] >= scores[pair[1]] else pair[::-1]
            alive.remove(loser)
            self._parents = [winner if parent == loser else parent for parent in self._parents] + [winner]
        return tuple(member for member in best_members(state, evaluation, len(scores)) if member in alive)

    def propose(self, state: SearchState, now: Round) -> MutationReport:
        """Give every winner its child, and fill what is free after that with children of members drawn at random."""
        if state.generation == 0:
            return NOTHING
        population, parents = state.population, list(self._parents)
        born, rejected, in_a_row = list[MemberId](), dict[str, int](), 0
        while len(population) < now.size and in_a_row < self.mutate.max_rejections:
            parent = parents[0] if parents else drawn_evenly(state, 1)[0]
            name = list(MUTATIONS)[int(state.rng.integers(len(MUTATIONS)))]
            change = MUTATIONS[name](population[parent].genome, state.rng, self.mutate.hidden_multiple)
            growth = Growth(population[parent].genome, change.genome, change.text)
            if broken := self.mutate.broken_limit(growth, population.bank.num_parameters):
                rejected[broken] = rejected.get(broken, 0) + 1
                in_a_row += 1
                continue
            born.append(self._bear(state, parent, change))
            parents, in_a_row = parents[1:], 0
        state.rates = {member: rate for member, rate in state.rates.items() if member in population.members}
        return MutationReport(tuple(born), rejected, saturated=len(population) < now.size)

    def _bear(self, state: SearchState, parent: MemberId, change: Change) -> MemberId:
        """Add a child with entries of its own: copies of the parent's where the shape is the same."""
        bank, shapes = state.population.bank, entry_shapes(change.genome)
        child, names = with_own_ids(change.genome, state.rng)
        for new, old in names.items():
            fixed = old == change.genome.stem.id and child.stem.kind == "whiten"  # made from the data, so never reset
            if old in bank and (fixed or not change.reset):
                held = {name: tuple(tensor.shape) for name, tensor in bank[old].items()}
                if held == shapes[old]:
                    bank.copy(old, new)
        begin = "twin" if change.twins else self.initialisation
        grow_bank(bank, child, generator=generator_from(state.rng), initialisation=begin)
        member = state.population.adopt(child, parent=parent, transform=change.text, generation=state.generation)
        if (rate := state.rates.get(parent, 1.0) * change.rate) != 1.0:
            state.rates[member] = rate
        return member

    def state_dict(self) -> dict[str, Any]:
        """Keep the members that have children next."""
        return {"parents": list(self._parents)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the same parents."""
        self._parents = [MemberId(parent) for parent in state["parents"]]
