"""A run folder as frozen data: everything that a report may know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from graftwork._files import check_id, read_bytes
from graftwork.errors import GenomeError, RunError
from graftwork.networks.genome import Genome
from graftwork.runs import AncestorEntry, GenerationRow, LossRow, MemberRow, NetworkResult, Result, Row, check_member
from graftwork.typing import MemberId

if TYPE_CHECKING:
    from graftwork.runs import RunFolder

CONTROL = MemberId("seed_network")
"""Id of the control: the seed genome, trained alone."""
Split = Literal["validation", "test"]
_MOST_DRAWN, _MOST_GENERATIONS, _MOST_SURVIVORS, _LONGEST_LINE, _MOST_SCORES = 500, 10_000, 1000, 1000, 1000
_MOST_LOSSES, _LARGEST_LOSS = 5000, 1e9
"""What a report takes: a run may come from anybody, and claim any number."""


@dataclass(frozen=True, slots=True)
class Birth:
    """Who came from whom, by which transform, in which generation; ``parent`` is None for a seed."""

    id: MemberId
    parent: MemberId | None
    transform: str
    generation: int


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
        losses: of single updates, in order.
        members: final survivors and the control, by id; empty until they are written.
        predictions: by split; empty until they are written.
    """

    path: Path
    result: Result | None
    provenance: Mapping[str, Any]
    config: str
    rounds: tuple[GenerationRow, ...]
    births: Mapping[MemberId, Birth]
    scores: Mapping[MemberId, tuple[MemberRow, ...]]
    control: tuple[MemberRow, ...]
    losses: tuple[LossRow, ...]
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
    def recommended(self) -> str | None:
        """Name of the recommended ensemble; None without one."""
        return None if self.result is None else self.result["recommended"]

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

    def entry(self, member_id: MemberId) -> NetworkResult | None:
        """What ``result.json`` says of a survivor or the control; None where it says nothing."""
        if self.result is None:
            return None
        if member_id == CONTROL:
            return self.result["seed_network"]
        return next((entry for entry in self.result["survivors"] if entry["id"] == member_id), None)

    def ancestors(self, member_id: MemberId) -> tuple[Birth, ...]:
        """The line from the seed to a member, both included, as far as it is recorded."""
        line: list[Birth] = []
        current: MemberId | None = member_id
        while current is not None and current in self.births and len(line) <= min(len(self.births), _LONGEST_LINE):
            line.append(self.births[current])
            current = line[-1].parent
        return tuple(line[::-1])

    @cached_property
    def drawn(self) -> frozenset[MemberId]:
        """Members that drawings show: all; of more than 500 the survivors, their ancestors and the first others."""
        kin = {birth.id for survivor in self.survivors for birth in self.ancestors(survivor)}
        every = dict.fromkeys([*self.survivors, *sorted(kin), *self.births, *self.scores])
        return frozenset(list(every)[:_MOST_DRAWN])

    @property
    def left_out(self) -> str:
        """What drawings do not show, in words; empty where they show every member."""
        number = len({*self.survivors, *self.births, *self.scores})
        return f" ({len(self.drawn):,} of {number:,})" if number > len(self.drawn) else ""


def read_run(folder: Path) -> RunData:
    """Read a run folder, finished or not. It may come from anybody: ids are checked, links are not followed.

    Args:
        folder: ``runs/NAME``.

    Raises:
        RunError: If it is no run folder, or one of its files can't be read.
    """
    run = _open(folder)
    if not run.has("records.jsonl") and not run.has("provenance.json"):
        raise RunError(
            f"expected a run folder with records.jsonl or provenance.json, but {str(folder)!r} has neither; "
            "give the folder that `graftwork search` wrote"
        )
    return _run_data(run, run.records(), whole=True)


def sketch_run(folder: Path, rows: Sequence[Row]) -> RunData:
    """Read a run folder as `read_run`, from its first moment on, without members and predictions.

    Args:
        folder: ``runs/NAME``.
        rows: what ``records.jsonl`` holds.

    Raises:
        RunError: If it is a run folder of another version, or one of its files can't be read.
    """
    return _run_data(_open(folder), rows, whole=False)


def _open(folder: Path) -> "RunFolder":
    from graftwork.runs import RunFolder  # draws in torch

    run = RunFolder(Path(folder))
    run.check_format()
    return run


def _run_data(run: "RunFolder", rows: Sequence[Row], *, whole: bool) -> RunData:
    folder = run.path
    rounds = tuple(row for row in rows if isinstance(row, GenerationRow))
    generations = max((one.generation for one in rounds), default=0)
    survivors = len(rounds[-1].survivors) if rounds else 0
    if generations > _MOST_GENERATIONS or survivors > _MOST_SURVIVORS:
        raise RunError(
            f"{folder}: expected at most {_MOST_GENERATIONS:,} generations and {_MOST_SURVIVORS:,} survivors, got "
            f"{generations:,} and {survivors:,}; more can't be drawn"
        )
    networks = [row for row in rows if isinstance(row, MemberRow)]
    scores: dict[MemberId, list[MemberRow]] = {}
    for row in networks:
        if row.type == "member":
            scores.setdefault(row.id, []).append(row)
    control = tuple(row for row in networks if row.type == "control")
    most = max(map(len, (*scores.values(), control)), default=0)
    if most > max(len(rounds), _MOST_SCORES):
        raise RunError(f"{folder}: expected a score of a network for each generation, got {most:,}; the run is damaged")
    return RunData(
        path=run.path.resolve(),
        result=run.result() if run.finished else None,
        provenance=run.read_json("provenance.json") if run.has("provenance.json") else {},
        config=_config(run),
        rounds=rounds,
        births=_births(rounds),
        scores={i: tuple(values) for i, values in scores.items()},
        control=control,
        losses=tuple(row for row in rows if isinstance(row, LossRow) and 0 <= row.loss < _LARGEST_LOSS)[:_MOST_LOSSES],
        members=_members(run) if whole else {},
        predictions=_predictions(run) if whole else {},
    )


def _config(run: "RunFolder") -> str:
    if not run.has("config.toml"):
        return ""
    run.verify("config.toml")
    return read_bytes(run.config_path).decode("utf-8", "replace")


def _births(rounds: Sequence[GenerationRow]) -> dict[MemberId, Birth]:
    return {row.id: Birth(row.id, row.parent, row.transform, one.generation) for one in rounds for row in one.births}


def _members(run: "RunFolder") -> dict[MemberId, MemberFile]:
    members: dict[MemberId, MemberFile] = {}
    for name in run.names("members", ".json"):
        data = check_member(run.read_json(f"members/{name}.json"), run.path / "members" / f"{name}.json")
        try:
            genome = Genome.from_dict(data["genome"])
        except GenomeError as error:
            raise RunError(f"members/{name}.json, genome: {error}") from error
        member_id = MemberId(data["id"])
        members[member_id] = MemberFile(
            id=member_id,
            genome=genome,
            ancestors=tuple(_ancestor(entry) for entry in data["ancestors"]),
            validation_accuracy=data["validation_accuracy"],
            test_accuracy=data["test_accuracy"],
            parameters=data["parameters"],
            flops=data["flops"],
            class_names=tuple(data["class_names"]),
        )
    return members


def _ancestor(entry: AncestorEntry) -> Birth:
    parent = None if entry["parent"] is None else MemberId(entry["parent"])
    return Birth(MemberId(entry["id"]), parent, entry["transform"], entry["generation"])


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
    fits = labels.ndim == 1 and shapes <= {(len(labels), classes)} and index.shape == labels.shape == (len(labels),)
    if not fits or (len(labels) and (labels.min() < 0 or labels.max() >= max(classes, 1))):
        raise RunError(
            f"{name}: expected logits [N, classes], labels [N] and index [N], got others; the run folder is damaged"
        )
    for key in logits:
        for part in key.split("/"):
            check_id(part, f"{name}: name of a tensor")
