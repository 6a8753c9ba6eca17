"""Algorithm 1 of the poster, as a generator that yields one `Generation` a round.

Nothing here writes a file or prints: the caller records what is yielded, and may stop and resume between any two
updates, because everything that changes lives in `SearchState`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from graftwork._plan import Plan
from graftwork.errors import ConfigError
from graftwork.execution import shared_flops
from graftwork.genome import TRAINING_FACTOR, Genome, forward_flops, training_flops
from graftwork.member import Member
from graftwork.mutation import MutationReport, Mutator, part
from graftwork.population import Birth, Population
from graftwork.selection import BoundedSelector, Selector, SoftSelector
from graftwork.training import Evaluation, Hopeless, Update
from graftwork.transforms import Fork
from graftwork.typing import BlockId, MemberId

__all__ = ["Generation", "Plan", "SearchState", "joint_train", "search"]


class Trains(Protocol):
    """Makes updates (see `graftwork.training.Trainer`), as many as it wants drawn at once."""

    @property
    def batch_size(self) -> int: ...
    @property
    def updates_at_once(self) -> int: ...
    def run(self, updates: Sequence[Update]) -> float: ...
    def sync(self, copies: Mapping[BlockId, BlockId] | None = None) -> None: ...
    def slow(self, block_ids: Iterable[BlockId], rate: float) -> None: ...


class Scores(Protocol):
    """What members say about the validation split (see `graftwork.training.Scorer`)."""

    def evaluate(self, members: Sequence[Member], hopeless: Hopeless | None = None) -> Evaluation: ...
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
        accuracies: Of the members scored last: member → fraction of the validation split; ``None`` where scoring was
            stopped early.
        report: Of this round's mutation.
        loss_sum: Of this round's updates, with their number in ``loss_count``.
        loss_count: Updates of this round.
        lines: Members that the lines begin with, once the population has parted.
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
    accuracies: dict[MemberId, float | None] = field(default_factory=dict)
    report: MutationReport = field(default_factory=lambda: MutationReport((), {}, saturated=False))
    loss_sum: float = 0.0
    loss_count: int = 0
    lines: tuple[MemberId, ...] = ()

    @property
    def spent_flops(self) -> int:
        """Training and scoring together."""
        return self.training_flops + self.scoring_flops

    def line_of(self, member_id: MemberId) -> int | None:
        """Number of the line, from 0, that a member belongs to; ``None`` before the population has parted."""
        owner = self.population.ancestor_among(member_id, self.lines)
        return None if owner is None else self.lines.index(owner)


@dataclass(frozen=True, slots=True)
class Generation:
    """What one round did: selection has been made from these scores, the next round begins with the survivors.

    Args:
        number: 0 for the round that trains the seed alone.
        members: Scored, in order of birth; the scoring of some may have been stopped early.
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
    def accuracies(self) -> dict[MemberId, float | None]:
        """Member → fraction of validation examples that it gets right; ``None`` where scoring was stopped early."""
        return {member: low if low == high else None for member, (low, high) in self.accuracy_bounds.items()}

    @property
    def accuracy_bounds(self) -> dict[MemberId, tuple[float, float]]:
        """Member → the lowest and highest fraction that it can get right, as far as it was asked; mostly equal."""
        bounds, count = self.evaluation.bounds, len(self.evaluation.labels)
        return {m: (int(low) / count, int(high) / count) for m, low, high in zip(self.members, *bounds, strict=True)}

    @property
    def best(self) -> MemberId:
        """The member with the highest validation accuracy; the older of equals. It is always scored to the end."""
        return self.members[int(np.argmax(self.evaluation.correct.sum(axis=1)))]

    @property
    def best_accuracy(self) -> float:
        """Of `best`: the fraction of validation examples that it gets right."""
        return self.accuracy_bounds[self.best][0]

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

    With ``plan.fork_fraction`` the population parts once into K lines, each with blocks that no other line has. From
    then on selection keeps the best of each line, so that survivors go on sharing no more than the trunk.

    Args:
        state: A population that holds the seed, and the source of randomness; changed in place. A state that was
            stored between two updates goes on where it was, to the same bits.
        selector: Chooses survivors from what each member classifies correctly.
        mutate: Grows the population to a size.
        trainer: Makes updates.
        scorer: Correctness on the validation split. It is told who has lost already, where the selector can tell, and
            may stop scoring them; survivors and their order do not depend on it.
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
            if state.generation == plan.fork_generation:
                _part(state, plan, trainer, num_survivors)
            state.report = mutate(state.population, population_size, rng=state.rng, generation=state.generation)
        state.begun = True
        if state.generation == plan.fork_generation and not state.lines:  # in round 0, which nothing begins
            joint_train(state, trainer=trainer, scorer=scorer, plan=plan, observer=observer, until=plan.fork_fraction)
            _part(state, plan, trainer, num_survivors)
        joint_train(state, trainer=trainer, scorer=scorer, plan=plan, observer=observer)
        evaluation = scorer.evaluate(list(state.population), _lost(state, selector, num_survivors))
        state.scoring_flops += evaluation.flops
        chosen = _select(state, selector, evaluation, num_survivors)
        yield _finish_round(state, plan, evaluation, chosen)
    state.population.keep(state.survivors)


def _part(state: SearchState, plan: Plan, trainer: Trains, count: int) -> None:
    """Put forks in the place of those who are alive; the copies take their sources' moments before these go."""
    trainer.sync()
    fork = Fork(plan.fork_layer, plan.fork_start)
    parents = state.survivors or tuple(state.population.members)
    parting = part(state.population, parents, count, fork=fork, rng=state.rng, generation=state.generation)
    trainer.sync(parting.copies)
    state.population.keep(parting.lines)
    state.lines = parting.lines


def _trunk(state: SearchState) -> tuple[BlockId, ...]:
    """Blocks that members of several lines bind, in order of first use; none before the population has parted."""
    if not state.lines:
        return ()
    owners: dict[BlockId, set[int | None]] = defaultdict(set)
    for line, member in ((state.line_of(name), found) for name, found in state.population.members.items()):
        for block_id in member.genome.ids:
            owners[block_id].add(line)
    return tuple(block_id for block_id, lines in owners.items() if len(lines) > 1)


def _contests(state: SearchState, num_survivors: int) -> tuple[list[NDArray[np.int64]], int]:
    """Rows that compete with one another, and for how many places: all for K; with lines, each line for one."""
    members = tuple(state.population.members)
    if not state.lines:
        return [np.arange(len(members))], num_survivors
    owners = np.array([state.line_of(member) for member in members])
    return [np.flatnonzero(owners == line) for line in range(len(state.lines))], 1


def _lost(state: SearchState, selector: Selector, num_survivors: int) -> Hopeless | None:
    """Who has lost already, by bounds; ``None``: under this selector a part of the examples does not tell."""
    if not isinstance(selector, BoundedSelector):
        return None
    groups, count = _contests(state, num_survivors)

    def hopeless(fewest: NDArray[np.int64], most: NDArray[np.int64]) -> NDArray[np.bool_]:
        out = np.zeros(len(fewest), dtype=np.bool_)
        for rows in groups:
            out[rows] = selector.hopeless(fewest[rows], most[rows], count)
        return out

    return hopeless


def _select(state: SearchState, selector: Selector, evaluation: Evaluation, num_survivors: int) -> tuple[MemberId, ...]:
    """Survivors in order of choice; once there are lines, the choice of each line by itself, in order of lines."""
    members = tuple(state.population.members)
    costs = np.array([forward_flops(genome) for genome in state.population.genomes], dtype=np.float64)
    groups, count = _contests(state, num_survivors)
    chosen: list[MemberId] = []
    for rows in groups:
        if isinstance(selector, SoftSelector):
            found = selector.select_soft(evaluation.confidence[rows].astype(np.float64), costs[rows], count, state.rng)
        else:
            found = selector.select(evaluation.correct[rows], costs[rows], count, state.rng)
        chosen += [members[rows[row]] for row in found]
    return tuple(chosen)


def joint_train(
    state: SearchState,
    *,
    trainer: Trains,
    scorer: Scores,
    plan: Plan,
    observer: Observer | None = None,
    until: float | None = None,
) -> None:
    """Draw a member uniformly, with replacement, update it on one batch; until this round's work is done.

    With ``until`` it ends when that share of the plan's whole work is done, if this comes before the round's end.

    With ``plan.members_per_step`` above 1, so many different members are drawn for each batch. Under a plan in FLOPs a
    round ends before the update that would leave too little for scoring the population.
    """
    trainer.sync()
    if plan.trunk_rate < 1:
        trainer.slow(_trunk(state), plan.trunk_rate)
    draw = _Draw(state, plan, trainer.batch_size, scorer.flops(state.population.genomes), until)
    while drawn := draw(trainer.updates_at_once):
        loss = trainer.run([entry.update for entry in drawn])
        state.step += len(drawn)
        state.training_flops += sum(entry.flops for entry in drawn)
        state.loss_sum += loss
        state.loss_count += len(drawn)
        if observer is not None:
            observer(state, drawn[-1].first, loss / len(drawn), drawn[-1].update.progress)


@dataclass(frozen=True, slots=True)
class _Drawn:
    update: Update
    first: MemberId
    flops: int


class _Draw:
    """Draws the updates of one round, as long as its share of the plan lasts.

    Args:
        state: Whose ``rng`` draws; otherwise read only.
        plan: How much work the round gets.
        batch_size: Images of an update.
        reserved: FLOPs that scoring will take.
        until: Share of the plan's work at which to end; ``None``: with the round.
    """

    def __init__(
        self, state: SearchState, plan: Plan, batch_size: int, reserved: int, until: float | None = None
    ) -> None:
        self._until = until
        self._state, self._plan, self._reserved = state, plan, reserved
        self._ids = list(state.population.members)
        self._members, self._lines = list(state.population), [state.line_of(member) for member in self._ids]
        self._size = min(plan.members_per_step, len(self._ids))
        self._factor = TRAINING_FACTOR * batch_size
        self._genomes: dict[tuple[int, int] | None, list[Genome]] = {None: state.population.genomes}
        if plan.small_size is not None:
            self._genomes[plan.small_size] = [g.at_size(*plan.small_size) for g in state.population.genomes]
        self._costs = {size: [training_flops(g, batch_size) for g in found] for size, found in self._genomes.items()}
        self._largest = sum(sorted(self._costs[None])[-self._size :])

    def __call__(self, count: int) -> list[_Drawn]:
        """Up to ``count`` updates that follow on the state; none when the round is over."""
        drawn: list[_Drawn] = []
        step, spent = self._state.step, self._state.spent_flops
        while len(drawn) < count and self._fits(step, spent):
            rows, progress = self._rows(), self._progress(step, spent)
            size = self._plan.size_at(progress)
            flops = self._costs[size][rows[0]]
            if len(rows) > 1:
                flops = self._factor * shared_flops([self._genomes[size][row] for row in rows])
            trained, line = tuple(self._members[row] for row in rows), self._lines[rows[0]]
            update = Update(trained, step, progress, size, line)
            drawn.append(_Drawn(update, self._ids[rows[0]], flops))
            step, spent = step + 1, spent + flops
        return drawn

    def _fits(self, step: int, spent: int) -> bool:
        plan, generation = self._plan, self._state.generation
        if self._until is not None and plan.share(step, spent) >= self._until:
            return False
        if plan.flops is None:
            return step < plan.steps_until(generation)
        return spent + self._reserved + self._largest <= plan.flops_until(generation)

    def _rows(self) -> list[int]:
        rng = self._state.rng
        if self._size == 1:
            return [int(rng.integers(len(self._ids)))]
        return [int(row) for row in rng.choice(len(self._ids), self._size, replace=False)]

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
