"""The updates of one round, drawn until the round's share of the plan is used up."""

from dataclasses import dataclass

from graftwork.evolution._plan import Plans
from graftwork.evolution._state import SearchState
from graftwork.evolution.strategies import Strategy
from graftwork.networks import Member, bind
from graftwork.networks.genome import Genome, training_flops
from graftwork.training import Update


@dataclass(frozen=True, slots=True)
class Drawn:
    """One update and what it costs.

    Args:
        update: What the trainer runs.
        name: Id of the member that it trains, or the hash of a genome that is not a member's.
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
        self._members: dict[str, Member] = {str(name): member for name, member in state.population.members.items()}
        self._costs: dict[tuple[str, tuple[int, int] | None], int] = {}
        self._largest = max(self._cost(name, None) for name in self._members)

    def __call__(self, count: int) -> list[Drawn]:
        """Draw the next updates, at most ``count``; none when the round is over.

        Under a plan in FLOPs the round ends before the update that would leave too little for scoring.
        """
        drawn: list[Drawn] = []
        step, spent = self._state.step, self._state.spent_flops
        while len(drawn) < count and self._fits(step, spent, self._largest):
            name = self._name(*self._strategy.draw(self._state, 1))
            plan = self._plans.at(step)
            progress = plan.progress(step, spent, self._reserved)
            size = plan.size_at(progress)
            flops = self._cost(name, size)
            if not self._fits(step, spent, flops):  # a genome from outside the population, larger than any member
                break
            drawn.append(Drawn(Update((self._members[name],), step, progress, size), name, flops))
            step, spent = step + 1, spent + flops
        return drawn

    def _name(self, drawn: "str | Genome") -> str:
        if not isinstance(drawn, Genome):
            return drawn
        if drawn.id not in self._members:
            population = self._state.population
            self._members[drawn.id] = bind(drawn, population.bank, form=population.form)
        return drawn.id

    def _cost(self, name: str, size: tuple[int, int] | None) -> int:
        if (name, size) not in self._costs:
            genome = self._members[name].genome
            shown = genome if size is None else genome.at_size(*size)
            self._costs[name, size] = training_flops(shown, self._batch_size) + self._extra
        return self._costs[name, size]

    def _fits(self, step: int, spent: int, flops: int) -> bool:
        generation, plan = self._state.generation, self._plans.at(step)
        if plan.flops is None:
            return step < plan.steps_until(generation)
        return spent + self._reserved + flops <= plan.flops_until(generation)
