"""What several strategies do alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from graftwork.evolution._population import Population
from graftwork.evolution._state import SearchState
from graftwork.evolution.mutation import MutationReport, R2RMutation
from graftwork.evolution.selection import Selector, best_first
from graftwork.evolution.transforms import Growth, new_block_id
from graftwork.metrics import OF_WHOLE_MEMBERS
from graftwork.networks.genome import Genome, Layer, forward_flops
from graftwork.training import Evaluation
from graftwork.typing import BlockId, MemberId

SELECTING = frozenset({"selection", "selection_options", "cost"})
"""Options of the choice of survivors."""
DRAWING = frozenset({"deepen_probability", "kernel_probabilities", "concat_probability"})
"""Options by which random grafts are drawn."""
NOTHING = MutationReport((), {}, saturated=False)
"""What a round reports in which nobody is born."""


class Stateless:
    """A strategy whose own state is none: all that changes is in the search's."""

    def state_dict(self) -> dict[str, Any]:
        """An empty dictionary."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load nothing."""


def drawn_evenly(state: SearchState, count: int) -> list[MemberId]:
    """Draw members uniformly, with replacement."""
    members = list(state.population.members)
    return [members[int(state.rng.integers(len(members)))] for _ in range(count)]


def best_members(state: SearchState, evaluation: Evaluation, count: int) -> tuple[MemberId, ...]:
    """The best members by the metric, best first; of equals, the older ones."""
    members = list(state.population.members)
    return tuple(members[row] for row in best_first(evaluation.scores)[:count])


def selected(
    selector: Selector,
    state: SearchState,
    evaluation: Evaluation,
    count: int,
    *,
    cost: Callable[[Genome], float] = forward_flops,
) -> tuple[MemberId, ...]:
    """Let a selector choose among the members, by the metric that they are compared by.

    Args:
        selector: What chooses.
        state: The search; only its ``rng`` changes.
        evaluation: What the population says about the validation split.
        count: Number of members to choose.
        cost: What a network costs.
    """
    members = list(state.population.members)
    chosen = selector.select(
        evaluation.correct,
        np.array([cost(genome) for genome in state.population.genomes], dtype=np.float64),
        count,
        state.rng,
        classes=evaluation.labels if evaluation.metric == "balanced-accuracy" else None,
        scores=evaluation.scores if evaluation.metric in OF_WHOLE_MEMBERS else None,
    )
    return tuple(members[row] for row in chosen)


def drawn_growth(
    mutate: R2RMutation,
    population: Population,
    parent: MemberId,
    *,
    rng: np.random.Generator,
    rejected: dict[str, int],
) -> Growth | None:
    """Draw a growth of one member that keeps all limits.

    Args:
        mutate: What draws it, and has the limits.
        population: The members.
        parent: The member to grow.
        rng: Source of every choice.
        rejected: Draws that broke a limit, by the limit's name; counted further.

    Returns:
        The growth, not grafted yet; ``None`` after too many rejected draws in a row.
    """
    genome = population[parent].genome
    for _ in range(mutate.max_rejections):
        growth = mutate.draw(genome, rng=rng)(genome, rng=rng)
        broken = mutate.broken_limit(growth, population.bank.num_parameters if mutate.memory else 0)
        if broken is None:
            return growth
        rejected[broken] = rejected.get(broken, 0) + 1
    return None


def generator_from(rng: np.random.Generator) -> torch.Generator:
    """A generator of new weights, seeded by the search's randomness."""
    return torch.Generator().manual_seed(int(rng.integers(2**62)))


def with_own_ids(genome: Genome, rng: np.random.Generator) -> tuple[Genome, dict[BlockId, BlockId]]:
    """The same network over entries of its own.

    Returns:
        The genome, and new id → old id of every entry in forward order.
    """
    names: dict[BlockId, BlockId] = {}

    def named(old: BlockId, new: BlockId) -> BlockId:
        names[new] = old
        return new

    def apart(old: BlockId) -> BlockId:
        return named(old, BlockId(f"{old.partition('-')[0]}-{int(rng.integers(2**48)):012x}"))

    def renewed(layer: Layer) -> Layer:
        blocks = (replace(b, id=named(b.id, new_block_id(b.kernel_size, rng))) for b in layer.blocks)
        return replace(layer, blocks=tuple(blocks))

    stem = genome.stem if genome.stem.kind == "none" else replace(genome.stem, id=apart(genome.stem.id))
    body: Sequence[object] = tuple(renewed(item) if isinstance(item, Layer) else item for item in genome.body)
    head = replace(genome.head, id=apart(genome.head.id))
    return genome.replace(stem=stem, body=body, head=head), names
