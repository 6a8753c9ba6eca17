"""Algorithm 1 of the poster, as a generator that yields one `Generation` for each round.

Nothing here writes a file, and a bar is all that may be shown: the caller records what is yielded, and may stop and
resume between any two updates, because everything that changes lives in `SearchState` and in the strategy's
``state_dict``.
"""

from collections.abc import Iterator
from math import nan

from graftwork.errors import ConfigError
from graftwork.evolution._bar import watched
from graftwork.evolution._draw import RoundDraw
from graftwork.evolution._plan import Plan, Plans
from graftwork.evolution._skips import note_skipped
from graftwork.evolution._state import Generation, Observer, Round, Scores, SearchState, Trains
from graftwork.evolution.mutation import MutationReport
from graftwork.evolution.strategies import Strategy
from graftwork.training import Evaluation
from graftwork.typing import MemberId


def search(
    state: SearchState,
    *,
    strategy: Strategy,
    trainer: Trains,
    scorer: Scores,
    plan: Plan | Plans,
    num_survivors: int,
    population_size: int,
    observer: Observer | None = None,
    progress: bool | None = None,
) -> Iterator[Generation]:
    """Algorithm 1: train the seed; then select, mutate and train jointly, round after round.

    Args:
        state: A population that holds the seed, and the source of randomness; changed in place. A state that was
            stored between two updates continues where it was, to the same bits.
        strategy: What decides which members survive, grow and train (see `graftwork.evolution.strategies`).
        trainer: What makes the updates.
        scorer: What says which validation examples each member gets right.
        plan: How much work each round gets; `Plans` may be added to while the search runs, from the next update on.
        num_survivors: K, members that survive a round.
        population_size: M, members after growth, at least K.
        observer: Function called when the state may be stored (see `Observer`); ``None``: none.
        progress: Whether a bar is shown; ``None``: in a notebook only.

    Yields:
        One `Generation` for each round; after the last one the population holds the final survivors.

    Raises:
        ConfigError: If K or M is below 1, or M is below K.
    """
    if not 1 <= num_survivors <= population_size:
        raise ConfigError(
            f"search: expected 1 <= num_survivors <= population_size, got {num_survivors} and {population_size}; "
            "lower num_survivors or raise population_size"
        )
    with watched(observer, progress) as observe:
        while not state.finished:
            if not state.begun:
                if state.generation > 0:
                    state.population.keep(state.survivors)
                now = _next_round(state, Plans.of(plan), population_size, scorer)
                state.report = strategy.propose(state, now)
                _afford(state, Plans.of(plan), scorer)
                state.begun = True
            joint_train(state, strategy=strategy, trainer=trainer, scorer=scorer, plan=plan, observer=observe)
            evaluation = scorer.evaluate(list(state.population))
            state.scoring_flops += evaluation.flops
            yield _finish_round(state, Plans.of(plan), evaluation, strategy.survivors(state, evaluation, num_survivors))
    state.population.held = ()
    state.population.keep(state.survivors)


def _next_round(state: SearchState, plans: Plans, size: int, scorer: Scores) -> Round:
    plan, number = plans.at(state.step), state.generation
    steps = None if plan.flops is not None else plan.steps_until(number) - state.step
    flops = None if plan.flops is None else plan.flops_until(number) - state.spent_flops
    after, total = plan.num_generations - number, plan.total_steps if plan.flops is None else plan.flops
    return Round(size, rounds_after=after, steps=steps, flops=flops, scorer=scorer, total=total)


def _afford(state: SearchState, plans: Plans, scorer: Scores) -> None:
    """Drop the youngest members that a plan in FLOPs leaves too little to score at the end of the round."""
    plan, population, report = plans.at(state.step), state.population, state.report
    if plan.flops is None:
        return
    left, kept = plan.flops_until(state.generation) - state.spent_flops, list(population.members)
    while len(kept) > 1 and scorer.flops([population[member].genome for member in kept]) > left:
        kept.pop()
    if dropped := len(population) - len(kept):
        population.keep(kept)
        born = tuple(member for member in report.born if member in kept)
        state.report = MutationReport(born, {**report.rejected, "budget": dropped}, saturated=True)


def joint_train(
    state: SearchState,
    *,
    strategy: Strategy,
    trainer: Trains,
    scorer: Scores,
    plan: Plan | Plans,
    observer: Observer | None = None,
) -> None:
    """Draw a member and update it on one batch, until this round's share of the plan is done; as in `search`.

    An update whose loss or gradient is not finite is skipped, but counts as work; a member of which three in a row are
    skipped is dropped.

    Raises:
        GraftworkError: If that would leave no member.
    """
    plans = Plans.of(plan)

    def begin() -> RoundDraw:
        trainer.sync()
        reserved = scorer.flops(state.population.genomes)
        sizes = {"batch_size": trainer.batch_size, "reserved": reserved, "extra": trainer.extra_flops}
        return RoundDraw(state, strategy=strategy, plans=plans, **sizes)

    draw = begin()
    while drawn := draw(trainer.updates_at_once):
        outcome = trainer.run([entry.update for entry in drawn])
        made = len(drawn) - len(outcome.skipped)
        state.step += len(drawn)
        state.training_flops += sum(entry.flops for entry in drawn)
        state.loss_sum += outcome.loss
        state.loss_count += made
        if note_skipped(state, [entry.name for entry in drawn], outcome.skipped):
            draw = begin()
        if observer is not None:
            observer(state, drawn[-1].name, outcome.loss / made if made else nan, drawn[-1].update.progress)


def _finish_round(
    state: SearchState, plans: Plans, evaluation: Evaluation, survivors: tuple[MemberId, ...]
) -> Generation:
    state.finished = state.generation >= plans.at(state.step).num_generations
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
        mean_loss=state.loss_sum / state.loss_count if state.loss_count else nan,
        last=state.finished,
        skipped=state.skipped,
        dropped=state.dropped,
    )
    state.accuracies = record.accuracies
    state.generation += 1
    state.begun, state.loss_sum, state.loss_count = False, 0.0, 0
    state.skipped, state.dropped = {}, ()
    return record
