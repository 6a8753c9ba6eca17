"""The state of a search between two updates, and what it yields after a round."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from graftwork._html import table
from graftwork.evolution._population import Birth, Population
from graftwork.evolution.mutation import MutationReport
from graftwork.networks import Member
from graftwork.networks.genome import Genome
from graftwork.training import Evaluation, Outcome, Update
from graftwork.typing import MemberId


class Trains(Protocol):
    """What makes updates (see `graftwork.training.Trainer`), and how many it wants drawn at once."""

    @property
    def batch_size(self) -> int: ...
    @property
    def updates_at_once(self) -> int: ...
    @property
    def extra_flops(self) -> int: ...
    def run(self, updates: Sequence[Update]) -> Outcome: ...
    def sync(self) -> None: ...


class Scores(Protocol):
    """What members say about the validation split (see `graftwork.training.Scorer`)."""

    def evaluate(self, members: Sequence[Member]) -> Evaluation: ...
    def flops(self, genomes: Sequence[Genome]) -> int: ...
    @property
    def num_images(self) -> int: ...
    def glance(self, members: Sequence[Member], rows: NDArray[np.int64]) -> NDArray[np.bool_]: ...


@dataclass(frozen=True, slots=True)
class Round:
    """What a strategy knows of a round at its beginning.

    Args:
        size: M, number of members wanted at most.
        rounds_after: Number of rounds that are planned after this one; 0: it is the last.
        steps: Updates that it may make; ``None``: the plan counts FLOPs.
        flops: FLOPs that it may spend, the scoring at its end included; ``None``: the plan counts steps.
        scorer: Tells what members get right. What a strategy scores itself it adds to ``state.scoring_flops``.
        total: Updates or FLOPs of the whole search, as planned now; ``None``: not known.
    """

    size: int
    rounds_after: int
    steps: int | None
    flops: float | None
    scorer: Scores
    total: float | None = None


@dataclass(slots=True)
class SearchState:
    """Everything that changes during a search: what a checkpoint stores, beside the strategy's own state.

    Args:
        population: The members, their bank and their lineage.
        rng: Source of draws, mutations and new weights.
        generation: Number of the current round, from 0.
        begun: Whether this round's mutation is done.
        finished: Whether the search is over.
        step: Number of updates so far.
        training_flops: FLOPs spent on updates so far.
        scoring_flops: FLOPs spent on scoring, and on a strategy's own networks, so far.
        survivors: Members selected at the end of the last round, in order of choice.
        accuracies: Member → fraction of the validation split that it gets right, for the members scored last.
        report: Outcome of this round's mutation.
        loss_sum: Sum of the losses of this round's updates.
        loss_count: Number of updates in this round that were made.
        failing: Name of what was drawn → number of its updates that were skipped in a row, up to the last one.
        skipped: Name of what was drawn → number of its updates that were skipped in this round.
        dropped: Members that were dropped in this round, as too many of their updates were skipped in a row.
        rates: Member → factor on its learning rate, where it is not 1.
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
    failing: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    dropped: tuple[MemberId, ...] = ()
    rates: dict[MemberId, float] = field(default_factory=dict)

    @property
    def spent_flops(self) -> int:
        """FLOPs of training and scoring so far."""
        return self.training_flops + self.scoring_flops


@dataclass(frozen=True, slots=True)
class Generation:
    """The outcome of one round: scores, and the survivors that were selected from them and begin the next round.

    Args:
        number: Number of the round; 0 for the one that trains the seed alone.
        members: Members that were scored, in order of birth.
        evaluation: What each of them says about the validation split.
        survivors: Selected members, in order of choice.
        births: Members born in this round.
        report: Outcome of the mutation.
        step: Number of updates since the start.
        training_flops: Training FLOPs since the start.
        scoring_flops: Scoring FLOPs since the start.
        mean_loss: Mean loss over this round's updates; NaN if none was made.
        last: Whether it is the final round.
        skipped: Name of what was drawn → number of its updates that were skipped, as loss or gradient was not finite.
        dropped: Members that were dropped for it; they were not scored.
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
    skipped: Mapping[str, int] = field(default_factory=dict)
    dropped: tuple[MemberId, ...] = ()

    @property
    def accuracies(self) -> dict[MemberId, float]:
        """Member → fraction of validation examples that it gets right."""
        total = len(self.evaluation.labels)
        counts = self.evaluation.correct.sum(axis=1)
        return {member: int(count) / total for member, count in zip(self.members, counts, strict=True)}

    @property
    def best(self) -> MemberId:
        """The member that is best by the metric; of equals, the older one."""
        return self.members[int(np.argmax(self.evaluation.scores))]

    @property
    def best_accuracy(self) -> float:
        """Fraction of validation examples that `best` gets right."""
        return self.accuracies[self.best]

    @property
    def best_score(self) -> float:
        """Score of `best` by the metric."""
        return float(self.evaluation.scores.max())

    def __repr__(self) -> str:
        top = f"best {self.best} at {self.best_accuracy:.4f} validation"
        return f"<Generation {self.number}: {len(self.members)} members, {top}>"

    def _repr_html_(self) -> str:
        born = {birth.id: f"{birth.transform} of {birth.parent}" for birth in self.births if birth.parent}
        rows = [
            (name, f"{accuracy:.4f}", "survives" if name in self.survivors else "", born.get(name, ""))
            for name, accuracy in sorted(self.accuracies.items(), key=lambda entry: -entry[1])
        ]
        return table(repr(self), ("member", "validation accuracy", "", "born in this round"), rows)


Observer = Callable[[SearchState, str, float, float], None]
"""Function of the state, the name of a member, a loss and the progress, called whenever the state may be stored; it may
raise to stop the search.

That is after every update or, where a trainer wants several drawn at once, after all of those: the member is then the
one drawn last, and the loss is their mean; NaN where all were skipped. A drawn genome that is not a member's is named
by its hash.
"""
