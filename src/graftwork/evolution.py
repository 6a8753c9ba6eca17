"""Algorithm 1 of the poster, as a generator that yields one `Generation` a round.

Nothing here writes a file or prints: the caller records what is yielded, and may stop and resume between any two
updates, because everything that changes lives in `SearchState`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from graftwork.errors import ConfigError
from graftwork.genome import Genome, forward_flops, training_flops
from graftwork.member import Member
from graftwork.mutation import MutationReport, Mutator
from graftwork.plan import Plan
from graftwork.population import Birth, Population
from graftwork.selection import Selector
from graftwork.training import Evaluation, Update
from graftwork.typing import MemberId

__all__ = ["Generation", "Plan", "SearchState", "joint_train", "search"]


class Trains(Protocol):
    """Makes updates (see `graftwork.training.Trainer`), as many as it wants drawn at once."""

    @property
    def batch_size(self) -> int: ...
    @property
    def updates_at_once(self) -> int: ...
    def run(self, updates: Sequence[Update]) -> float: ...
    def sync(self) -> None: ...


class Scores(Protocol):
    """What members say about the validation split (see `graftwork.training.Scorer`)."""

    def evaluate(self, members: Sequence[Member]) -> Evaluation: ...
    def flops(self, genomes: Sequence[Genome]) -> int: ...


@dataclass(slots=True)
class SearchState:
    """Everything that changes during a search: what a checkpoint stores.

    Args:
        population: Members, bank and lineage.
        rng: Source of draws, mutations and new weights.
        generation: The round that is under way.
        begun: Whether this round's mutation is done.
        finished: Whether the search is over.
        step: Updates so far.
        training_flops: Spent on updates so far.
        scoring_flops: Spent on scoring so far.
        survivors: Selected at the end of the last round, in order of choice.
        accuracies: Of the members scored last: member → fraction of the validation split.
        report: Of this round's mutation.
        loss_sum: Of this round's updates, with their number in ``loss_count``.
        loss_count: Updates of this round.
    """

    population: Population
    rng: np.random.Generator
    generation: int = 0
    begun: bool = False
    finished: bool = False
    step: int = 0
    training_flops: int = 0
    scoring_flops: int = 0
    survivors: tuple[MemberId, ...] = ()
    accuracies: dict[MemberId, float] = field(default_factory=dict)
    report: MutationReport = field(default_factory=lambda: MutationReport((), {}, saturated=False))
    loss_sum: float = 0.0
    loss_count: int = 0

    @property
    def spent_flops(self) -> int:
        """Training and scoring together."""
        return self.training_flops + self.scoring_flops


@dataclass(frozen=True, slots=True)
class Generation:
    """What one round did: selection has been made from these scores, the next round begins with the survivors.

    Args:
        number: 0 for the round that trains the seed alone.
        members: Scored, in order of birth.
        evaluation: What each of them says about the validation split.
        survivors: In order of choice.
        births: Members born in this round.
        report: Of the mutation.
        step: Updates since the start.
        training_flops: Since the start.
        scoring_flops: Since the start.
        mean_loss: Over this round's updates; NaN if there was none.
        last: Whether it is the final one.
    """

    number: int
    members: tuple[MemberId, ...]
    evaluation: Evaluation
    survivors: tuple[MemberId, ...]
    births: tuple[Birth, ...]
    report: MutationReport
    step: int
    training_flops: int
    scoring_flops: int
    mean_loss: float
    last: bool

    @property
    def accuracies(self) -> dict[MemberId, float]:
        """Member → fraction of validation examples that it gets right."""
        counts = self.evaluation.correct.sum(axis=1).tolist()
        return {m: count / len(self.evaluation.labels) for m, count in zip(self.members, counts, strict=True)}

    @property
    def best(self) -> MemberId:
        """The member with the highest validation accuracy; the older of equals."""
        return self.members[int(np.argmax(self.evaluation.correct.sum(axis=1)))]

    @property
    def best_accuracy(self) -> float:
        """Of `best`: the fraction of validation examples that it gets right."""
        return self.accuracies[self.best]

    def __repr__(self) -> str:
        top = f"best {self.best} at {self.best_accuracy:.4f} validation"
        return f"<Generation {self.number}: {len(self.members)} members, {top}>"


Observer = Callable[[SearchState, MemberId, float, float], None]
"""Called with the state, a member, a loss and the progress whenever the state may be stored; may raise to stop.

That is after every update, or, where a trainer wants several drawn at once, after those: then the member is the one
drawn last and the loss is the mean.
"""


def search(
    state: SearchState,
    *,
    selector: Selector,
    mutate: Mutator,
    trainer: Trains,
    scorer: Scores,
    plan: Plan,
    num_survivors: int,
    population_size: int,
    observer: Observer | None = None,
) -> Iterator[Generation]:
    """Algorithm 1: train the seed; then select, mutate and train jointly, round after round.

    Args:
        state: A population that holds the seed, and the source of randomness; changed in place. A state that was
            stored between two updates goes on where it was, to the same bits.
        selector: Chooses survivors from what each member classifies correctly.
        mutate: Grows the population to a size.
        trainer: Makes updates.
        scorer: Correctness on the validation split.
        plan: How much work each round gets.
        num_survivors: K.
        population_size: M, at least K.
        observer: See `Observer`.

    Yields:
        One `Generation` a round; after the last one the population holds the final survivors.

    Raises:
        ConfigError: If K or M is below 1, or M is below K.
    """
    if not 1 <= num_survivors <= population_size:
        raise ConfigError(f"search: 1 <= K <= M must hold, got num_survivors={num_survivors}, {population_size=}")
    while not state.finished:
        if state.generation > 0 and not state.begun:
            state.population.keep(state.survivors)
            state.report = mutate(state.population, population_size, rng=state.rng, generation=state.generation)
        state.begun = True
        joint_train(state, trainer=trainer, scorer=scorer, plan=plan, observer=observer)
        evaluation = scorer.evaluate(list(state.population))
        state.scoring_flops += evaluation.flops
        chosen = _select(state, selector, evaluation, num_survivors)
        yield _finish_round(state, plan, evaluation, chosen)
    state.population.keep(state.survivors)


def _select(state: SearchState, selector: Selector, evaluation: Evaluation, num_survivors: int) -> tuple[MemberId, ...]:
    """Survivors in order of choice."""
    costs = np.array([forward_flops(genome) for genome in state.population.genomes], dtype=np.float64)
    members = tuple(state.population.members)
    return tuple(members[row] for row in selector.select(evaluation.correct, costs, num_survivors, state.rng))


def joint_train(
    state: SearchState,
    *,
    trainer: Trains,
    scorer: Scores,
    plan: Plan,
    observer: Observer | None = None,
) -> None:
    """Draw a member uniformly, with replacement, update it on one batch; until this round's work is done.

    Under a plan in FLOPs a round ends before the update that would leave too little for scoring the population.
    """
    trainer.sync()
    draw = _Draw(state, plan, trainer.batch_size, scorer.flops(state.population.genomes))
    while drawn := draw(trainer.updates_at_once):
        loss = trainer.run([entry.update for entry in drawn])
        state.step += len(drawn)
        state.training_flops += sum(entry.flops for entry in drawn)
        state.loss_sum += loss
        state.loss_count += len(drawn)
        if observer is not None:
            observer(state, drawn[-1].member, loss / len(drawn), drawn[-1].update.progress)


@dataclass(frozen=True, slots=True)
class _Drawn:
    member: MemberId
    update: Update
    flops: int


class _Draw:
    """Draws the updates of one round, as long as its share of the plan lasts.

    Args:
        state: Whose ``rng`` draws; otherwise read only.
        plan: How much work the round gets.
        batch_size: Images of an update.
        reserved: FLOPs that scoring will take.
    """

    def __init__(self, state: SearchState, plan: Plan, batch_size: int, reserved: int) -> None:
        self._state, self._plan, self._reserved = state, plan, reserved
        self._ids = list(state.population.members)
        self._members = list(state.population)
        genomes: dict[tuple[int, int] | None, list[Genome]] = {None: state.population.genomes}
        if plan.small_size is not None:
            genomes[plan.small_size] = [genome.at_size(*plan.small_size) for genome in genomes[None]]
        self._costs = {size: [training_flops(g, batch_size) for g in found] for size, found in genomes.items()}
        self._largest = max(self._costs[None])

    def __call__(self, count: int) -> list[_Drawn]:
        """Up to ``count`` updates that follow on the state; none when the round is over."""
        drawn: list[_Drawn] = []
        step, spent = self._state.step, self._state.spent_flops
        while len(drawn) < count and self._fits(step, spent):
            row, progress = int(self._state.rng.integers(len(self._ids))), self._progress(step, spent)
            size = self._plan.size_at(progress)
            update, flops = Update((self._members[row],), step, progress, size), self._costs[size][row]
            drawn.append(_Drawn(self._ids[row], update, flops))
            step, spent = step + 1, spent + flops
        return drawn

    def _fits(self, step: int, spent: int) -> bool:
        plan, generation = self._plan, self._state.generation
        if plan.flops is None:
            return step < plan.steps_until(generation)
        return spent + self._reserved + self._largest <= plan.flops_until(generation)

    def _progress(self, step: int, spent: int) -> float:
        """Fraction of the whole search's training that is behind us: what drives schedules."""
        plan = self._plan
        if plan.flops is None:
            return step / max(1, plan.total_steps or 1)
        return min(1.0, spent / max(1, plan.flops - self._reserved))


def _finish_round(
    state: SearchState, plan: Plan, evaluation: Evaluation, survivors: tuple[MemberId, ...]
) -> Generation:
    state.finished = state.generation >= plan.num_generations
    state.survivors = survivors
    record = Generation(
        number=state.generation,
        members=tuple(state.population.members),
        evaluation=evaluation,
        survivors=survivors,
        births=tuple(birth for birth in state.population.lineage if birth.generation == state.generation),
        report=state.report,
        step=state.step,
        training_flops=state.training_flops,
        scoring_flops=state.scoring_flops,
        mean_loss=state.loss_sum / state.loss_count if state.loss_count else float("nan"),
        last=state.finished,
    )
    state.accuracies = record.accuracies
    state.generation += 1
    state.begun, state.loss_sum, state.loss_count = False, 0.0, 0
    return record
