"""Exporting: write aside, check, move into place."""

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from graftwork._files import scratch
from graftwork._version import __version__
from graftwork.errors import GraftworkError, InputError, ResourceError, did_you_mean
from graftwork.exporting._formats import FILES, ExportFormat, Sheet, can_run, open_export, write_files
from graftwork.exporting._front import Front
from graftwork.exporting._source import load_source, plain_network, render_source
from graftwork.exporting._tensors import plain_tensors
from graftwork.networks import Member
from graftwork.networks.execution import InputTransform
from graftwork.numerics import output_gap
from graftwork.typing import Norm

EXACT_TOLERANCE = 1e-9
"""Largest relative gap in float64, where rounding is far below it and any wrong operation far above."""

TOLERANCES: dict[Norm, float] = {"batch": 1e-4, "none": 1e-4, "instance": 1e-2, "layer": 1e-2}
"""Largest relative gap in float32. On random networks rounding alone gave 1e-6 for the first two; the others divide by
the deviation of a single image, which magnifies it: 7e-4."""

NUM_CHECKED = 16
_TRUNK_TOLERANCE = 1e-3
"""Others wrote the trunk; its rounding passes through all of its layers."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The receipt of an export.

    Args:
        to: Format of the files.
        paths: The files; the first one is the one to open.
        max_gap: Largest difference of the opened file's logits from the member's, float32, relative to the largest
            logit; ``None`` where onnxruntime is missing and the file could not be run.
        exact_gap: The same in float64, of the plain network from the member in reference form.
        tolerance: What ``max_gap`` was held to.
        num_images: Random images that were compared.
    """

    to: ExportFormat
    paths: tuple[Path, ...]
    max_gap: float | None
    exact_gap: float
    tolerance: float
    num_images: int = NUM_CHECKED

    def __str__(self) -> str:
        gap = "not run (onnxruntime is missing)" if self.max_gap is None else f"gap {self.max_gap:.1e}"
        return f"{self.to}: {', '.join(str(path) for path in self.paths)}; {gap} on {self.num_images} random images"


def export_member(
    member: Member,
    folder: str | Path,
    *,
    to: ExportFormat,
    transform: InputTransform,
    class_names: Sequence[str],
    tolerance: float | None = None,
    overwrite: bool = False,
    front: Front | None = None,
) -> ExportReport:
    """Write a member as a model that runs without graftwork, and check that it gives the member's outputs.

    The exported network takes float32 images [B, C, H, W] with values in [0, 1] and normalises them itself. ``source``
    is ``model.py`` (plain PyTorch, one readable file) and ``model.safetensors``; ``pt2`` a `torch.export` program;
    ``onnx`` an ONNX model with inputs ``images`` and outputs ``logits``. Batch sizes are free.

    Args:
        member: Member to export, as it runs in evaluation mode with its running statistics; left alone.
        folder: Folder for the files; made if it is missing.
        to: Format of the files.
        transform: How the member's images were normalised.
        class_names: Name of each class, in the order of the logits.
        tolerance: Largest relative gap in float32; ``None`` is `TOLERANCES` for the genome's norm. In float64 the
            network is always held to `EXACT_TOLERANCE`.
        overwrite: Whether to replace files of the same names.
        front: Trunk whose features the member reads, to be a part of the program; ``None``: it reads images.

    Returns:
        Paths and measured gaps.

    Raises:
        InputError: If arguments do not fit the member, files are there already, or a package is missing.
        ResourceError: If the files can't be written.
        GraftworkError: If the exported model differs from the member. In every case the folder's files are untouched.
    """
    check_arguments(member, to, transform, class_names, front)
    genome, twin = member.genome, exact_twin(member)
    subject = Subject(
        "member",
        source=render_source(genome, transform, class_names, version=__version__, of_features=front is not None),
        tensors=plain_tensors(twin),
        sheet=Sheet(front.input_shape if front else genome.input_shape, tuple(class_names), genome.id),
        transform=transform,
        exact=twin,
        run=partial(_in_evaluation_mode, member),
        tolerance=default_tolerance(genome.norm, front) if tolerance is None else tolerance,
        front=front,
    )
    return write_checked(subject, folder, to=to, overwrite=overwrite)


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """What is exported, and what its outputs have to be.

    Args:
        noun: What to call it in messages.
        source: Text of ``model.py``.
        tensors: Its weights by name, float64.
        sheet: What its user has to know.
        transform: How its images were normalised.
        exact: Normalised float64 images → outputs, by an independent computation.
        run: Normalised float32 images → outputs, as graftwork computes them.
        tolerance: Largest relative gap of the files from ``run``.
        front: Trunk that makes the features which all of these read; ``None``: they read images.
        settled: Normalised float32 images → which of them rounding can't send another way, bool [B]; only these are
            compared. ``None``: all.
    """

    noun: str = field(kw_only=False)
    source: str
    tensors: dict[str, Tensor]
    sheet: Sheet
    transform: InputTransform
    exact: Callable[[Tensor], Tensor]
    run: Callable[[Tensor], Tensor]
    tolerance: float
    front: Front | None = None
    settled: Callable[[Tensor], Tensor] | None = None


def default_tolerance(norm: Norm, front: Front | None) -> float:
    """Largest relative gap in float32 where none is asked for: that of `TOLERANCES`, and more behind a trunk."""
    return TOLERANCES[norm] if front is None else max(TOLERANCES[norm], _TRUNK_TOLERANCE)


def write_checked(subject: Subject, folder: str | Path, *, to: ExportFormat, overwrite: bool) -> ExportReport:
    """Write aside, compare, move into place; see `export_member`."""
    target = Path(folder)
    there = [name for name in FILES[to] if (target / name).exists()]
    if there and not overwrite:
        raise InputError(f"export: {' and '.join(there)} exist in {str(target)!r}; choose another folder or overwrite")
    exact_gap = _exact_gap(subject)
    _hold(subject, exact_gap, EXACT_TOLERANCE, to, "float64")
    single = {name: value.float() if value.is_floating_point() else value for name, value in subject.tensors.items()}
    try:
        target.mkdir(parents=True, exist_ok=True)
        with scratch(target, "export") as aside:
            staged = write_files(
                to, aside, source=subject.source, tensors=single, sheet=subject.sheet, front=subject.front
            )
            max_gap = _gap(subject, staged[0]) if can_run(to) else None
            if max_gap is not None:
                _hold(subject, max_gap, subject.tolerance, to, "float32")
            paths = move_into_place(staged, target)
    except OSError as error:
        raise ResourceError(f"export: can't write to {str(target)!r}: {error}; nothing was replaced") from error
    return ExportReport(to, paths, max_gap, exact_gap, subject.tolerance)


def check_arguments(
    member: Member, to: str, transform: InputTransform, class_names: Sequence[str], front: Front | None
) -> None:
    genome = member.genome
    if to not in FILES:
        raise InputError(f"export: to: expected one of {', '.join(FILES)}, got {to!r}{did_you_mean(to, FILES)}")
    if to == "source" and front is not None:
        raise InputError(
            f"export: to: expected pt2 or onnx, which take the trunk {front.trunk.name} in, got 'source'; its code is "
            "not graftwork's to write out"
        )
    if isinstance(class_names, str) or len(class_names) != genome.num_classes:
        raise InputError(f"export: expected {genome.num_classes} class names, got {class_names!r}")
    channels = genome.input_shape[0]
    for name, values in (("mean", transform.mean), ("std", transform.std)):
        if len(values) != channels or not all(math.isfinite(value) for value in values):
            raise InputError(f"export: expected {channels} finite values of {name}, one a channel, got {values!r}")
    if min(transform.std) <= 0:
        raise InputError(f"export: std: expected numbers > 0, got {transform.std!r}")


def _hold(subject: Subject, gap: float, tolerance: float, to: str, precision: str) -> None:
    if not gap <= tolerance:
        raise GraftworkError(
            f"export: the {to} model differs from the {subject.noun} by {gap:.2e} in {precision} (relative to the "
            f"largest output), more than the tolerance of {tolerance:.0e}; nothing was written. This is a defect of "
            "graftwork or of an exporter below it: try another format, and please report the genome"
        )


def exact_twin(member: Member) -> Member:
    """The member in float64 on the CPU, with weights of its own, in reference form and evaluation mode."""
    weights = {
        block_id: {name: tensor.detach().double().cpu() for name, tensor in entry.items()}
        for block_id, entry in member.weights.items()
    }
    twin = Member(member.genome, weights, form="reference").eval()
    for block_id, (mean, variance) in member.statistics.items():
        twin.statistics[block_id] = (mean.double().cpu(), variance.double().cpu())
    return twin


def _exact_gap(subject: Subject) -> float:
    """Gap in float64 of the plain network (fused) from the reference form, an independent computation."""
    network = plain_network(subject.source, subject.tensors, dtype=torch.float64)
    shape = load_source(subject.source).IMAGE_SHAPE  # of features, behind a trunk
    pixels = torch.rand(NUM_CHECKED, *shape, generator=_generator(), dtype=torch.float64)
    with torch.no_grad():
        normalised = (pixels - network.get_buffer("mean")) / network.get_buffer("std")
        return output_gap(subject.exact(normalised), network(pixels))


def _in_evaluation_mode(member: Member, x: Tensor) -> Tensor:
    weight = next(iter(member.parameters_by_key().values()))
    was_training = member.training
    member.eval()
    try:
        return member(x.to(weight)).float().cpu()  # type: ignore[no-any-return]
    finally:
        member.train(was_training)


def _gap(subject: Subject, file: Path) -> float:
    """Gap of an exported file in float32, on bytes as graftwork gets them, in two batch sizes."""
    channels, height, width = subject.sheet.input_shape
    shape = (NUM_CHECKED, height, width, channels)
    images = torch.randint(0, 256, shape, generator=_generator(), dtype=torch.uint8)
    with torch.no_grad():
        read = images if subject.front is None else subject.front.trunk.features(images)
        given = subject.transform(read)
        expected = subject.run(given)
        kept = slice(None) if subject.settled is None else subject.settled(given).cpu()
    exported = open_export(file)
    pixels = images.permute(0, 3, 1, 2).float() / 255
    parts = [exported(part.contiguous()) for part in torch.split(pixels, [NUM_CHECKED - 3, 3])]
    return output_gap(expected[kept], torch.cat(parts)[kept])


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _sync(path: Path) -> None:
    """Have the bytes of a file, or the names in a folder, on the disk itself."""
    if path.is_dir() and os.name == "nt":
        return  # Windows can't open folders, and keeps names by itself
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_into_place(staged: Sequence[Path], target: Path) -> tuple[Path, ...]:
    """Move checked files into place; old files of the same names come back where one of the moves fails."""
    paths = tuple(target / path.name for path in staged)
    old = {path: staged[0].parent / f"old-{path.name}" for path in paths if path.exists()}
    for path in staged:
        _sync(path)
    for path, copy in old.items():
        shutil.copy2(path, copy)
    done: list[Path] = []
    try:
        for source, path in zip(staged, paths, strict=True):
            source.replace(path)
            done.append(path)
    except OSError:
        for path in done:
            if path in old:
                old[path].replace(path)
            else:
                path.unlink()
        raise
    _sync(target)
    return paths
