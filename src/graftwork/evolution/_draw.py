"""The updates of one round, drawn until the round's share of the plan is used up."""

from dataclasses import dataclass

from graftwork.evolution._plan import Plans
from graftwork.evolution._state import SearchState
from graftwork.evolution.strategies import Drawable, Strategy
from graftwork.networks import Member, bind
from graftwork.networks.execution import shared_flops
from graftwork.networks.genome import TRAINING_FACTOR, Genome
from graftwork.training import Update
from graftwork.typing import MemberId


@dataclass(frozen=True, slots=True)
class Drawn:
    """One update and what it costs.

    Args:
        update: What the trainer runs.
        name: Id of the member that it trains, the youngest of several; or the hash of a genome that is not a member's.
        flops: Training FLOPs of the update.
    """

    update: Update
    name: str
    flops: int


class RoundDraw:
    """Draws the updates of one round.

    Args:
        state: The search; only its ``rng`` changes.
        strategy: What decides which member trains.
        plans: How much work the round gets.
        batch_size: Number of images in an update.
        reserved: FLOPs that scoring the population will take.
        extra: FLOPs of an update beside those of its member.
    """

    def __init__(
        self,
        state: SearchState,
        *,
        strategy: Strategy,
        plans: Plans,
        batch_size: int,
        reserved: int,
        extra: int = 0,
    ) -> None:
        self._state, self._strategy, self._plans = state, strategy, plans
        self._batch_size, self._reserved, self._extra = batch_size, reserved, extra
        self._costs: dict[tuple[tuple[str, ...], tuple[int, int] | None], int] = {}
        self._largest = max(self._cost((name,), [member], None) for name, member in state.population.members.items())

    def __call__(self, count: int) -> list[Drawn]:
        """Draw the next updates, at most ``count``; none when the round is over.

        A strategy may end the round by drawing nothing. Under a plan in FLOPs it ends before the update that would
        leave too little for scoring.
        """
        drawn: list[Drawn] = []
        step, spent = self._state.step, self._state.spent_flops
        while len(drawn) < count and self._fits(step, spent, self._largest):
            if not (chosen := self._strategy.draw(self._state, 1)):
                break
            names, members = self._bound(*chosen)
            plan = self._plans.at(step)
            progress = plan.progress(step, spent, self._reserved)
            size = plan.size_at(progress)
            flops = self._cost(names, members, size)
            if not self._fits(step, spent, flops):  # several together, or a genome from outside, larger than any member
                break
            update = Update(tuple(members), step, progress, size, self._state.rates.get(MemberId(names[-1]), 1.0))
            drawn.append(Drawn(update, names[-1], flops))
            step, spent = step + 1, spent + flops
        return drawn

    def _bound(self, drawn: Drawable) -> tuple[tuple[str, ...], list[Member]]:
        """Names and members of what a strategy drew; what is not in the population is bound for this update alone."""
        population = self._state.population
        if isinstance(drawn, Genome):
            return (drawn.id,), [bind(drawn, population.bank, form=population.form)]
        names = drawn if isinstance(drawn, tuple) else (drawn,)
        return names, [population[name] for name in names]

    def _cost(self, names: tuple[str, ...], members: list[Member], size: tuple[int, int] | None) -> int:
        if (names, size) not in self._costs:
            genomes = [m.genome if size is None else m.genome.at_size(*size) for m in members]
            self._costs[names, size] = TRAINING_FACTOR * self._batch_size * shared_flops(genomes) + self._extra
        return self._costs[names, size]

    def _fits(self, step: int, spent: int, flops: int) -> bool:
        generation, plan = self._state.generation, self._plans.at(step)
        if plan.flops is None:
            return step < plan.steps_until(generation)
        return spent + self._reserved + flops <= plan.flops_until(generation)
