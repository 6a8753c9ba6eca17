"""What a round leaves in ``records.jsonl``."""

from dataclasses import asdict

from graftwork.evolution import Generation, SearchState
from graftwork.metrics import diversity
from graftwork.networks.genome import forward_flops, num_parameters
from graftwork.runs import BirthRow, GenerationRow, MemberRow, Row, SkippedRow
from graftwork.session._final import CONTROL


def rows_of(stage: str, state: SearchState, generation: Generation, *, seconds: float) -> list[Row]:
    """Make the rows of a round.

    Args:
        stage: ``"search"`` or ``"control"``.
        state: The search after the round.
        generation: The round.
        seconds: Time since the start of the run.
    """
    rows: list[Row] = [
        SkippedRow(
            "skipped", generation.number, _shown(stage, name), updates, name in generation.dropped, generation.step
        )
        for name, updates in generation.skipped.items()
    ]
    for member_id, accuracy in generation.accuracies.items():
        genome = state.population[member_id].genome
        rows.append(
            MemberRow(
                type="member" if stage == "search" else "control",
                generation=generation.number,
                id=member_id if stage == "search" else CONTROL,
                validation_accuracy=accuracy,
                parameters=num_parameters(genome),
                flops=forward_flops(genome),
                step=generation.step,
                training_flops=generation.training_flops,
                seconds=seconds,
            )
        )
    return [*rows, _generation_row(state, generation, seconds)] if stage == "search" else rows


def skipped_notes(stage: str, generation: Generation) -> list[str]:
    """What a user should know of the updates that were skipped in a round."""
    found = []
    for name, updates in generation.skipped.items():
        end = ", three of them in a row: it is dropped" if name in generation.dropped else ""
        found.append(
            f"generation {generation.number}: {updates} updates of {_shown(stage, name)} were skipped, as their loss "
            f"or gradient was not finite{end}"
        )
    return found


def _shown(stage: str, name: str) -> str:
    return name if stage == "search" else CONTROL


def _generation_row(state: SearchState, generation: Generation, seconds: float) -> GenerationRow:
    evaluation, population = generation.evaluation, state.population
    varied = len(generation.members) > 1
    return GenerationRow(
        type="generation",
        generation=generation.number,
        members=generation.members,
        survivors=generation.survivors,
        births=tuple(BirthRow(birth.id, birth.parent, birth.transform) for birth in generation.births),
        best=generation.best,
        step=generation.step,
        training_flops=generation.training_flops,
        scoring_flops=generation.scoring_flops,
        mean_loss=generation.mean_loss,
        rejected=generation.report.rejected,
        saturated=generation.report.saturated,
        diversity=asdict(diversity(evaluation.predicted, evaluation.labels)) if varied else None,
        bank_blocks=len(population.bank),
        bank_parameters=population.bank.num_parameters,
        seconds=seconds,
    )
