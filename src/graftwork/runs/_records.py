"""What a search records: rows of ``records.jsonl``, and its result. Writers and readers share these types."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from graftwork._files import parse_json, read_bytes
from graftwork.errors import RunError
from graftwork.runs._plain import Amount, Count, Id, Share, checked
from graftwork.typing import MemberId


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One scoring of one network.

    Args:
        type: ``"member"`` of the population, or the ``"control"``.
        generation: Round after which it was scored.
        id: The network.
        validation_accuracy: Share of the validation split that it gets right.
        parameters: Number of its parameters.
        flops: FLOPs of one forward pass over one image.
        step: Updates of the run so far.
        training_flops: Training FLOPs of the run so far.
        seconds: Time since the start of the run.
    """

    type: Literal["member", "control"]
    generation: Count
    id: MemberId
    validation_accuracy: Share
    parameters: Count
    flops: Count
    step: Count
    training_flops: Count
    seconds: Amount


@dataclass(frozen=True, slots=True)
class BirthRow:
    """A network that a round began with: ``parent`` is ``None`` for the seed."""

    id: MemberId
    parent: MemberId | None
    transform: str


@dataclass(frozen=True, slots=True)
class GenerationRow:
    """One round of a search.

    Args:
        type: ``"generation"``.
        generation: Number of the round; 0 trains the seed alone.
        members: Networks that were scored.
        survivors: Networks that were selected, in order of choice.
        births: Networks that were born at the beginning of the round.
        best: The network that is best on validation.
        step: Updates so far.
        training_flops: Training FLOPs so far.
        scoring_flops: Scoring FLOPs so far.
        mean_loss: Mean over the updates of the round.
        rejected: Draws that a limit rejected, by limit.
        saturated: Whether mutation gave up before the population was full.
        diversity: Measure → value, ``None`` where it is undefined; ``None`` for a single member.
        bank_blocks: Entries of the bank.
        bank_parameters: Parameters of the bank.
        seconds: Time since the start of the run.
    """

    type: Literal["generation"]
    generation: Count
    members: tuple[MemberId, ...]
    survivors: tuple[MemberId, ...]
    births: tuple[BirthRow, ...]
    best: MemberId
    step: Count
    training_flops: Count
    scoring_flops: Count
    mean_loss: float
    rejected: Mapping[str, Count]
    saturated: bool
    diversity: Mapping[str, float | None] | None
    bank_blocks: Count
    bank_parameters: Count
    seconds: Amount

    @property
    def measures(self) -> dict[str, float]:
        """The measures of diversity that are known."""
        return {name: value for name, value in (self.diversity or {}).items() if value is not None}


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """Updates of one network that were skipped in a round, as their loss or gradient was NaN or infinite.

    Args:
        type: ``"skipped"``.
        generation: The round.
        id: The network.
        updates: Number of updates that were skipped.
        dropped: Whether the network was dropped for it.
        step: Updates of the run so far.
    """

    type: Literal["skipped"]
    generation: Count
    id: Id
    updates: Count
    dropped: bool
    step: Count


@dataclass(frozen=True, slots=True)
class LossRow:
    """The loss of one update, of every one at first and of ever fewer later on.

    Args:
        type: ``"loss"``.
        stage: ``"search"`` or ``"control"``.
        generation: The round.
        step: Updates of the stage so far.
        loss: Loss on the batch of the update, before it.
        rate: Factor of the schedule on the learning rates.
    """

    type: Literal["loss"]
    stage: Literal["search", "control"]
    generation: Count
    step: Count
    loss: float
    rate: Amount


Row = MemberRow | GenerationRow | SkippedRow | LossRow
_MOST_SURVIVORS = 1000
_ROWS: Mapping[str, type[Row]] = {
    "member": MemberRow,
    "control": MemberRow,
    "generation": GenerationRow,
    "skipped": SkippedRow,
    "loss": LossRow,
}


class Accuracies(TypedDict):
    """How good a network or ensemble is.

    Intervals are Wilson's, of 95 %. Balanced accuracy (mean recall over classes) and macro F1 are those of the test
    split.
    """

    validation_accuracy: Share
    validation_interval: list[Share]
    test_accuracy: Share
    test_interval: list[Share]
    balanced_accuracy: Share
    macro_f1: Share


class NetworkResult(Accuracies):
    """A final survivor or the control; ``validation_score`` is that by the metric of the search, more is better."""

    id: Id
    validation_score: float
    parameters: Count
    flops: Count


class EnsembleResult(Accuracies):
    """An ensemble of the survivors.

    ``ece`` and ``nll`` are those of the test split, ``held_out_nll`` is that of the blend split by cross-fitting.
    """

    method: Id
    ece: float
    nll: float
    held_out_nll: float
    parameters: Count
    flops: Count
    num_members: Count
    members: list[Id]


class CascadeStage(TypedDict):
    """A member of a cascade: FLOPs of an image that it settles, those before it included, and its share of images."""

    id: Id
    flops: Count
    share: Share


class CascadePoint(TypedDict):
    """A cascade at one threshold; ``flops`` is the mean of an image of the test split."""

    threshold: Amount
    flops: Amount
    validation_accuracy: Share
    test_accuracy: Share


class CascadeResult(TypedDict):
    """A cascade: its threshold, chosen on the blend split, mean FLOPs of a test image, members in order, and curve."""

    threshold: Amount
    flops: Amount
    stages: list[CascadeStage]
    curve: list[CascadePoint]


class Opening(TypedDict):
    """One opening of the test split: when, by which command, and which networks it scored."""

    at: str
    by: str
    members: list[Id]


class MajorityResult(Accuracies):
    """What always saying the most frequent class of the training split would give."""

    name: str


class ClassResult(TypedDict):
    """One class on the test split, as the best member tells it."""

    name: str
    precision: Share
    recall: Share
    support: Count


class NetworkLatency(TypedDict):
    """Median milliseconds that a network or an ensemble takes for one image, and for a batch."""

    one: Amount
    batch: Amount


class LatencyResult(TypedDict):
    """How long networks take, in float32 by torch's own operations: ``networks`` by id, ``ensembles`` by method."""

    device: str
    threads: Count
    batch_size: Count
    networks: Mapping[str, NetworkLatency]
    ensembles: Mapping[str, NetworkLatency]


class MeasuredLatencies(TypedDict):
    """What ``latency.json`` holds: seconds for one image by genome, by which a search decides."""

    seconds: Mapping[str, Amount]


class FinalScores(TypedDict):
    """What the opening of the test split gives; ``recommended`` is the ensemble to use, chosen on the blend split.

    ``mirror_pairs`` names classes that flip into each other, as the best member tells validation images in the mirror;
    none where training images were mirrored.
    """

    best: NetworkResult
    majority: MajorityResult
    per_class: list[ClassResult]
    mirror_pairs: list[list[str]]
    seed_network: NetworkResult | None
    survivors: list[NetworkResult]
    test_opened_at: str
    test_openings: list[Opening]
    latency: LatencyResult
    ensemble: list[EnsembleResult] | None
    recommended: Id | None
    cascade: CascadeResult | None


class Result(FinalScores):
    """What ``result.json`` holds (see ``docs/run-folder.md``)."""

    training_flops: Count
    scoring_flops: Count
    seconds: Amount
    generations: Count
    steps: Count
    seed: int
    bank_sha256: str
    data: str
    classes: Count
    recipe: str
    strategy: str
    selection: str
    metric: str


class AncestorEntry(TypedDict):
    """One network of a line of descent; ``parent`` is ``None`` for the seed."""

    id: Id
    parent: Id | None
    transform: str
    generation: Count


class MemberEntry(TypedDict):
    """What the JSON file of a stored member says of it; ``ancestors`` begin with the seed and end with itself."""

    id: Id
    ancestors: list[AncestorEntry]
    genome: Any
    validation_accuracy: Share
    test_accuracy: Share | None
    parameters: Count
    flops: Count
    class_names: list[str]


def row_to_line(row: Row) -> str:
    """Return a row as one line of JSON."""
    return json.dumps(asdict(row), ensure_ascii=False) + "\n"


def read_records(path: Path) -> list[Row]:
    """Read the complete lines of ``records.jsonl``; none where there is no such file.

    Raises:
        RunError: If a line is no record; the message names file, line and key.
    """
    try:
        return parse_records(read_bytes(path), path)
    except FileNotFoundError:
        return []


def parse_records(data: bytes, path: Path, *, first: int = 1) -> list[Row]:
    """Parse complete lines of ``records.jsonl``; what follows the last line end was cut off by a kill.

    Args:
        data: The lines.
        path: The file, for messages.
        first: Number of the first line.

    Raises:
        RunError: If a line is no record; the message names file, line and key.
    """
    lines = data.split(b"\n")[:-1]
    return [_read_row(line, f"{path}, line {number}") for number, line in enumerate(lines, start=first) if line.strip()]


def _read_row(line: bytes, where: str) -> Row:
    data = parse_json(line, where)
    kind = data.get("type") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in _ROWS:
        raise RunError(
            f"{where}, type: expected one of {', '.join(_ROWS)}, got {ascii(kind)[:80]}; mend or cut the line"
        )
    return checked(_ROWS[kind], data, where)


def check_result(data: Mapping[str, Any], path: Path) -> Result:
    """Check what was read from ``result.json``.

    Raises:
        RunError: If a key is missing, or a value has another type or is out of bounds; the message names the key.
    """
    result = checked(Result, data, str(path))
    if not 1 <= len(result["survivors"]) <= _MOST_SURVIVORS:
        got = len(result["survivors"]) or "none"
        raise RunError(f"{path}, survivors: expected 1 to {_MOST_SURVIVORS}, got {got}; the run folder is damaged")
    return result


def check_latencies(data: Mapping[str, Any], path: Path) -> Mapping[str, float]:
    """Check what was read from ``latency.json``; as `check_result`."""
    return checked(MeasuredLatencies, data, str(path))["seconds"]


def check_member(data: Mapping[str, Any], path: Path) -> MemberEntry:
    """Check what was read from the JSON file of a stored member; as `check_result`."""
    return checked(MemberEntry, data, str(path))
