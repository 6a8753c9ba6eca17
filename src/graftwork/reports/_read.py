"""A run folder as frozen data: everything that a report may know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from graftwork._files import check_id, read_bytes
from graftwork.errors import GraftworkError, RunError
from graftwork.networks.genome import Genome
from graftwork.typing import MemberId

if TYPE_CHECKING:
    from graftwork.runs import RunFolder

CONTROL = MemberId("seed_network")
"""Id of the control: the seed genome, trained alone."""
Split = Literal["validation", "test"]


@dataclass(frozen=True, slots=True)
class Score:
    """One scoring of one network.

    Attributes:
        generation: after which it was scored.
        step: updates of the run so far.
        training_flops: of the run so far.
        flops: of one forward pass over one image.
    """

    id: MemberId
    generation: int
    validation_accuracy: float
    parameters: int
    flops: int
    step: int
    training_flops: float


@dataclass(frozen=True, slots=True)
class Birth:
    """Who came from whom, by which transform, in which generation; ``parent`` is None for a seed."""

    id: MemberId
    parent: MemberId | None
    transform: str
    generation: int


@dataclass(frozen=True, slots=True)
class Round:
    """One generation, as recorded; ``diversity`` maps a measure to its value and leaves out what is unknown."""

    generation: int
    members: tuple[MemberId, ...]
    survivors: tuple[MemberId, ...]
    best: MemberId | None
    step: int
    training_flops: float
    diversity: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class MemberFile:
    """A final survivor, or the control.

    Attributes:
        ancestors: the line from the seed to the member itself.
        test_accuracy: None until the test split is opened.
    """

    id: MemberId
    genome: Genome
    ancestors: tuple[Birth, ...]
    validation_accuracy: float
    test_accuracy: float | None
    parameters: int
    flops: int
    class_names: tuple[str, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Predictions:
    """Logits on one split.

    Attributes:
        logits: float32 [example, class] by id.
        labels: int64 [example].
        index: int64 [example]: row of the data set's images.
    """

    logits: Mapping[str, NDArray[np.float32]]
    labels: NDArray[np.int64]
    index: NDArray[np.int64]

    def probabilities(self, member_id: str) -> NDArray[np.float64]:
        """Softmax of a network's logits, float64 [example, class]."""
        logits = self.logits[member_id].astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return shares

    def predicted(self, member_id: str) -> NDArray[np.int64]:
        """Class with the largest logit, int64 [example]."""
        classes: NDArray[np.int64] = self.logits[member_id].argmax(axis=1).astype(np.int64)
        return classes


@dataclass(frozen=True, eq=False)
class RunData:
    """What a run folder holds so far.

    Attributes:
        result: content of ``result.json``; None while the run is unfinished.
        scores: of each member, in order of generation.
        control: scores of the control; empty without one.
        members: final survivors and the control, by id; empty until they are written.
        predictions: by split; empty until they are written.
    """

    path: Path
    result: Mapping[str, Any] | None
    provenance: Mapping[str, Any]
    config: str
    rounds: tuple[Round, ...]
    births: Mapping[MemberId, Birth]
    scores: Mapping[MemberId, tuple[Score, ...]]
    control: tuple[Score, ...]
    members: Mapping[MemberId, MemberFile]
    predictions: Mapping[Split, Predictions] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def finished(self) -> bool:
        """Whether ``result.json`` is there."""
        return self.result is not None

    @cached_property
    def survivors(self) -> tuple[MemberId, ...]:
        """Ids in order of choice: the final ones, or those of the last generation so far."""
        if self.result is not None:
            return tuple(MemberId(entry["id"]) for entry in self.result["survivors"])
        return self.rounds[-1].survivors if self.rounds else ()

    @cached_property
    def best(self) -> MemberId | None:
        """The survivor that is best on validation; None before anything is scored."""
        if self.result is not None:
            return MemberId(self.result["best"]["id"])
        return self.rounds[-1].best if self.rounds else None

    @property
    def ranked(self) -> tuple[MemberId, ...]:
        """Survivors with the best one first; the others in order of choice."""
        first = () if self.best is None else (self.best,)
        return (*first, *(i for i in self.survivors if i != self.best))

    @property
    def genomes(self) -> Mapping[MemberId, MemberFile]:
        """Files of the survivors in the order of `ranked`, where they exist."""
        return {i: self.members[i] for i in self.ranked if i in self.members}

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; their numbers where no member file tells them."""
        for member in self.members.values():
            if member.class_names:
                return member.class_names
        for predictions in self.predictions.values():
            for logits in predictions.logits.values():
                return tuple(map(str, range(logits.shape[1])))
        return ()

    def entry(self, member_id: MemberId) -> Mapping[str, Any] | None:
        """What ``result.json`` says of a survivor or the control; None where it says nothing."""
        if self.result is None:
            return None
        if member_id == CONTROL:
            control: Mapping[str, Any] | None = self.result.get("seed_network")
            return control
        return next((entry for entry in self.result["survivors"] if entry["id"] == member_id), None)

    def ancestors(self, member_id: MemberId) -> tuple[Birth, ...]:
        """The line from the seed to a member, both included, as far as it is recorded."""
        line: list[Birth] = []
        current: MemberId | None = member_id
        while current is not None and current in self.births and len(line) <= len(self.births):
            line.append(self.births[current])
            current = line[-1].parent
        return tuple(line[::-1])


def read_run(folder: Path) -> RunData:
    """Read a run folder, finished or not. It may come from anybody: ids are checked, links are not followed.

    Args:
        folder: ``runs/NAME``.

    Raises:
        RunError: If it is no run folder, or one of its files can't be read.
    """
    from graftwork.runs import RunFolder  # draws in torch

    run = RunFolder(Path(folder))
    if not run.has("records.jsonl") and not run.has("provenance.json"):
        raise RunError(
            f"expected a run folder with records.jsonl or provenance.json, but {str(folder)!r} has neither; "
            "give the folder that `graftwork search` wrote"
        )
    try:
        return _read(run)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        if isinstance(error, GraftworkError):
            raise
        raise RunError(f"{folder}: something in it is missing or of another kind ({error!r}); it is damaged") from error


def _read(run: "RunFolder") -> RunData:
    records = run.records()
    scores: dict[MemberId, list[Score]] = {}
    for record in records:
        if record.get("type") == "member":
            score = _score(record)
            scores.setdefault(score.id, []).append(score)
    return RunData(
        path=run.path.resolve(),
        result=run.read_json("result.json") if run.finished else None,
        provenance=run.read_json("provenance.json") if run.has("provenance.json") else {},
        config=read_bytes(run.config_path).decode("utf-8", "replace") if run.has("config.toml") else "",
        rounds=tuple(_round(record) for record in records if record.get("type") == "generation"),
        births=_births(records),
        scores={i: tuple(values) for i, values in scores.items()},
        control=tuple(_score(record) for record in records if record.get("type") == "control"),
        members=_members(run),
        predictions=_predictions(run),
    )


_COSTS = ("parameters", "flops", "training_flops")


def _id(value: object) -> MemberId:
    return MemberId(check_id(value, "id of a member"))


def _ids(values: Any) -> tuple[MemberId, ...]:
    return tuple(_id(value) for value in values)


def _score(record: Mapping[str, Any]) -> Score:
    try:
        counts = {name: _count(record[name], name) for name in ("generation", "step")}
        costs: dict[str, Any] = {name: _number(record[name], name) for name in _COSTS}
        accuracy = _number(record["validation_accuracy"], "validation_accuracy", limit=1)
        return Score(id=_id(record["id"]), validation_accuracy=accuracy, **counts, **costs)
    except KeyError as error:
        raise RunError(f"records.jsonl: a score has no {error}; it holds {sorted(record)}") from error


def _number(value: Any, name: str, *, limit: float = 1e24) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limit:
        raise RunError(f"{name}: expected a number from 0 to {limit:g}, got {ascii(value)[:40]}; the file is damaged")
    return value


def _count(value: Any, name: str) -> int:
    return int(_number(value, name, limit=1e9))


def _round(record: Mapping[str, Any]) -> Round:
    measures, best = record.get("diversity") or {}, record.get("best")
    return Round(
        generation=_count(record["generation"], "generation"),
        members=_ids(record.get("members", ())),
        survivors=_ids(record.get("survivors", ())),
        best=None if best is None else _id(best),
        step=_count(record.get("step", 0), "step"),
        training_flops=_number(record.get("training_flops", 0), "training_flops"),
        diversity={str(name): float(value) for name, value in measures.items() if value is not None},
    )


def _birth(entry: Mapping[str, Any], generation: Any) -> Birth:
    parent = entry.get("parent")
    return Birth(
        _id(entry["id"]),
        None if parent is None else _id(parent),
        str(entry.get("transform") or "seed"),
        _count(generation, "generation"),
    )


def _births(records: Sequence[Mapping[str, Any]]) -> dict[MemberId, Birth]:
    births: dict[MemberId, Birth] = {}
    for record in records:
        if record.get("type") != "generation":
            continue
        number = record["generation"]
        for entry in record.get("births", ()):
            birth = _birth(entry, number)
            births.setdefault(birth.id, birth)
        for member_id in _ids(record.get("members", ())):  # the seed, where it is not told as a birth
            births.setdefault(member_id, Birth(member_id, None, "seed", number))
    return births


def _members(run: "RunFolder") -> dict[MemberId, MemberFile]:
    members: dict[MemberId, MemberFile] = {}
    for name in run.names("members", ".json"):
        data = run.read_json(f"members/{name}.json")
        tested = data.get("test_accuracy")
        try:
            members[_id(data["id"])] = MemberFile(
                id=_id(data["id"]),
                genome=Genome.from_dict(data["genome"]),
                ancestors=tuple(_birth(entry, entry["generation"]) for entry in data.get("ancestors", ())),
                validation_accuracy=_number(data["validation_accuracy"], "validation_accuracy", limit=1),
                test_accuracy=None if tested is None else _number(tested, "test_accuracy", limit=1),
                parameters=int(_number(data["parameters"], "parameters")),
                flops=int(_number(data["flops"], "flops")),
                class_names=tuple(map(str, data.get("class_names") or ())),
            )
        except (KeyError, GraftworkError) as error:
            raise RunError(f"members/{name}.json: expected a member, but {error}") from error
    return members


def _predictions(run: "RunFolder") -> dict[Split, Predictions]:
    found: dict[Split, Predictions] = {}
    splits: tuple[Split, ...] = ("validation", "test")
    for split in splits:
        name = f"predictions/{split}.safetensors"
        if not run.has(name):
            continue
        tensors = {key: tensor.numpy() for key, tensor in run.load_tensors(name).items()}
        try:
            labels, index = tensors.pop("labels").astype(np.int64), tensors.pop("index").astype(np.int64)
        except KeyError as error:
            raise RunError(f"{name}: expected logits, labels and index, but {error} is missing") from error
        _check_predictions(tensors, labels, index, name)
        found[split] = Predictions(tensors, labels, index)
    return found


def _check_predictions(logits: Mapping[str, Any], labels: Any, index: Any, name: str) -> None:
    shapes = {array.shape for array in logits.values()}
    classes = max((shape[1] for shape in shapes if len(shape) == 2), default=0)
    fits = shapes <= {(len(labels), classes)} and index.shape == labels.shape == (len(labels),)
    if not fits or (len(labels) and (labels.min() < 0 or labels.max() >= max(classes, 1))):
        raise RunError(f"{name}: logits, labels and index do not fit together; it is damaged")
    for key in logits:
        for part in key.split("/"):
            check_id(part, f"{name}: name of a tensor")
