"""Racing: a network grows where a graft gives more for its FLOPs than training on does, and nowhere else."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from graftwork.evolution._state import Round, SearchState
from graftwork.evolution.mutation import MutationReport, R2RMutation
from graftwork.evolution.strategies._common import NOTHING, SELECTING, drawn_growth, generator_from
from graftwork.evolution.strategies._strategy import Drawable
from graftwork.networks.genome import forward_flops
from graftwork.training import Evaluation
from graftwork.typing import MemberId

_logger = logging.getLogger(__name__)


class Race:
    """One network, the champion; grafts on it race against it by successive halving, a rung in each round.

    All entrants train on the same batches, each prefix that they share once. A rung is short, as it trains losers, too:
    ``rung_share`` of what its round may spend, whose rest goes to later rounds. A graft begins as the champion's very
    function, so what it gains is seen at once: its gain is the rise of the log-likelihood of validation labels since
    the race began, and counts for each FLOP of its updates. The better half of the grafts goes on, the champion always;
    of the last two, the better one takes the champion's place if it leads by more than the noise. Otherwise nothing is
    added: the champion trains on alone for a round before the next race, and for good after ``patience`` lost races.

    A graft wins where κ·r < 1 from now on: r is the cost of its update in updates of the champion, and κ the gain of an
    update of the champion in updates of the graft's. As long as κ·r > 1, an update of the small network is worth its
    FLOPs, and it is too early to grow.

    Args:
        mutate: Draws the grafts, and has the limits that they keep.
        patience: Number of races lost in a row after which nothing is added any more.
        noise: Number of standard errors by which a graft has to lead.
        rung_share: Share of a round that its rung takes, unless the round is the last.
    """

    recipe: ClassVar[Mapping[str, Any]] = {"num_generations": 6, "initial_fraction": 0.3}
    ignores: ClassVar[frozenset[str]] = SELECTING | {"random_padding"}

    def __init__(self, *, mutate: R2RMutation, patience: int = 2, noise: float = 1.0, rung_share: float = 0.2) -> None:
        self.mutate = mutate
        self.patience = patience
        self.noise = noise
        self._start: NDArray[np.float64] = np.zeros(0)  # the champion's log-likelihoods when the race began
        self.rung_share = rung_share
        self._counts_steps = False
        self._stop: float | None = None  # updates or FLOPs of the search at which the rung ends
        self._lost = 0
        self._resting = False

    def draw(self, state: SearchState, count: int) -> Sequence[Drawable]:
        """Draw all entrants together, each time; nothing when the rung is over."""
        if self._stop is not None and (state.step if self._counts_steps else state.spent_flops) >= self._stop:
            return []
        members = tuple(state.population.members)
        return [members if len(members) > 1 else members[0]] * count

    def propose(self, state: SearchState, now: Round) -> MutationReport:
        """Begin a race where none is on, and there are rounds enough for what wins it to train."""
        report = self._grafted(state, now)
        self._stop, self._counts_steps = None, now.steps is not None
        if len(state.population) > 1 and now.rounds_after > 0:
            start, size = (state.step, now.steps) if now.steps is not None else (state.spent_flops, now.flops or 0)
            self._stop = start + max(1.0, self.rung_share * size)
        return report

    def _grafted(self, state: SearchState, now: Round) -> MutationReport:
        resting, self._resting = self._resting, False
        over = self._lost >= self.patience or resting
        if state.generation == 0 or len(state.population) > 1 or over or now.rounds_after == 0:
            return NOTHING
        population, rng = state.population, state.rng
        (champion,), born, rejected = population.members, list[MemberId](), dict[str, int]()
        while len(population) < now.size:
            growth = drawn_growth(self.mutate, population, champion, rng=rng, rejected=rejected)
            if growth is None:
                return MutationReport(tuple(born), rejected, saturated=True)
            if now.flops is not None and 4 * now.scorer.flops([*population.genomes, growth.child]) > now.flops:
                rejected["budget"] = 1  # most of the round is for training
                return MutationReport(tuple(born), rejected, saturated=True)
            generator = generator_from(rng)
            born.append(population.graft(champion, growth, generator=generator, generation=state.generation))
        return MutationReport(tuple(born), rejected, saturated=False)

    def survivors(self, state: SearchState, evaluation: Evaluation, count: int) -> tuple[MemberId, ...]:
        """Halve the grafts, or decide between champion and the better of the last two."""
        (champion, *grafts), seen = state.population.members, _likelihoods(evaluation)
        if not grafts:
            self._start = seen[0]
            return (champion,)
        costs = np.array([forward_flops(genome) for genome in state.population.genomes], dtype=np.float64)
        gains = (seen - self._start) * (costs[0] / costs)[:, None]  # for the FLOPs of an update of the champion
        leads = gains[1:] - gains[0]
        order = np.argsort(-leads.mean(axis=1), kind="stable")
        kept = min(count - 1, -(-len(grafts) // 2)) if len(grafts) > 2 else 0
        if kept:
            return (champion, *(grafts[row] for row in sorted(order[:kept])))
        best = int(order[0])
        error = leads[best].std() / np.sqrt(leads.shape[1])
        won = leads[best].mean() > self.noise * error and gains[best + 1].mean() > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            worth = gains[0].mean() / gains[best + 1].mean()
        _logger.info("generation %d: κ·r %.3g, %s", state.generation, worth, "grown" if won else "not grown")
        self._start = seen[best + 1] if won else seen[0]
        self._lost, self._resting = (0, False) if won else (self._lost + 1, True)
        return (grafts[best] if won else champion,)

    def state_dict(self) -> dict[str, Any]:
        """Keep how the race began, and how the last ones ended."""
        own = {"lost": self._lost, "resting": self._resting, "stop": self._stop, "counts_steps": self._counts_steps}
        return {"start": torch.from_numpy(self._start.copy()), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the same race."""
        self._start = state["start"].numpy().copy()
        self._lost, self._resting = int(state["lost"]), bool(state["resting"])
        self._stop, self._counts_steps = state["stop"], bool(state["counts_steps"])


def _likelihoods(evaluation: Evaluation) -> NDArray[np.float64]:
    """Log-likelihood of each label by each member, [member, example]; without any, whether it was told right."""
    found = evaluation.log_likelihoods
    return np.asarray(evaluation.correct if found is None else found, dtype=np.float64)
