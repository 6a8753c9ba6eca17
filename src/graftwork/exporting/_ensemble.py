"""An ensemble as a model that runs without graftwork: every shared prefix is there once."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftwork._version import __version__
from graftwork.errors import InputError
from graftwork.exporting._export import (
    ExportReport,
    Subject,
    check_arguments,
    default_tolerance,
    exact_twin,
    write_checked,
)
from graftwork.exporting._formats import ExportFormat, Sheet
from graftwork.exporting._front import Front
from graftwork.exporting._source import render_ensemble
from graftwork.exporting._tensors import segment_tensors
from graftwork.networks import Member
from graftwork.networks.execution import InputTransform, Output, Segment, prefix_tree, walk

_MARGIN = 0.01
"""Confidences so close to a cascade's threshold may fall on its other side by rounding."""


@dataclass(frozen=True, eq=False)
class Joined:
    """Members, and a combiner that makes one prediction of their outputs.

    Args:
        members: Members over one bank or several; they agree on input, activation, norm and the head's kind.
        combiner: Module from outputs [B, K, features] to log-probabilities [B, classes].
        description: The combiner as plain data (see `graftwork.ensembles.describe_combiner`).
        output: What of each member the combiner reads.
    """

    members: Sequence[Member]
    combiner: nn.Module
    description: Mapping[str, Any]
    output: Output = "logits"

    def run(self, x: Tensor) -> Tensor:
        """Log-probabilities [B, classes] of normalised images [B, C, H, W]."""
        outputs = dict(walk(self.members, x, "evaluate", output=self.output))
        result: Tensor = self.combiner(torch.stack([outputs[index] for index in range(len(self.members))], dim=1))
        return result

    def settled(self, x: Tensor) -> Tensor:
        """Of which images [B, C, H, W] no member of a cascade is just as sure as it has to be: bool [B]."""
        outputs = dict(walk(self.members, x, "evaluate"))
        stacked = torch.stack([outputs[index] for index in range(len(self.members))], dim=1)
        temperatures, threshold = (self.combiner.get_buffer(name) for name in ("temperatures", "threshold"))
        sure = (stacked / temperatures[:, None]).softmax(dim=2).amax(dim=2)[:, :-1]
        clear = ((sure - threshold).abs() > _MARGIN).all(dim=1)
        return clear if bool(clear.any()) else torch.ones_like(clear)


def export_ensemble(
    ensemble: Joined,
    folder: str | Path,
    *,
    to: ExportFormat,
    transform: InputTransform,
    class_names: Sequence[str],
    tolerance: float | None = None,
    overwrite: bool = False,
    front: Front | None = None,
) -> ExportReport:
    """Write an ensemble as one model that runs without graftwork, and check that it gives the ensemble's outputs.

    As `export_member` does, with log-probabilities in the place of logits: their softmax is the probabilities.

    Args:
        ensemble: Ensemble to export, as its members run in evaluation mode; left alone.
        folder: Folder for the files; made if it is missing.
        to: Format of the files.
        transform: How the members' images were normalised.
        class_names: Name of each class, in the order of the outputs.
        tolerance: Largest relative gap in float32; ``None``: that of a member's export.
        overwrite: Whether to replace files of the same names.
        front: Trunk whose features the members read, to be a part of the program; ``None``: they read images.

    Returns:
        Paths and measured gaps.

    Raises:
        InputError: If the members can't stand in one file, or as `export_member` says.
        ResourceError: If the files can't be written.
        GraftworkError: If the exported model differs. In every case the folder's files are untouched.
    """
    members = ensemble.members
    if not members:
        raise InputError("export: expected at least one member, got none")
    check_arguments(members[0], to, transform, class_names, front)
    genomes = [member.genome for member in members]
    heads = [replace(genome.head, id=genomes[0].head.id) for genome in genomes]  # whose weights may differ
    kinds = {
        (g.input_shape, g.num_classes, g.activation, g.norm, g.stem.kind, h)
        for g, h in zip(genomes, heads, strict=True)
    }
    if len(kinds) > 1:
        raise InputError(f"export: expected members that agree on input, stem, norm and head, got {kinds}")
    twins = [exact_twin(member) for member in members]
    twin = Joined(twins, deepcopy(ensemble.combiner).double(), ensemble.description, ensemble.output)
    segments = prefix_tree(twins)
    source = render_ensemble(
        genomes,
        segments,
        ensemble.description,
        without_last=ensemble.output == "penultimate",
        transform=transform,
        class_names=class_names,
        version=__version__,
        of_features=front is not None,
    )
    subject = Subject(
        "ensemble",
        source=source,
        tensors=_tensors(twin, segments),
        sheet=Sheet(
            front.input_shape if front else genomes[0].input_shape,
            tuple(class_names),
            ", ".join(genome.id for genome in genomes),
        ),
        transform=transform,
        exact=twin.run,
        run=ensemble.run,
        settled=ensemble.settled if ensemble.description["kind"] == "cascade" else None,
        tolerance=default_tolerance(genomes[0].norm, front) if tolerance is None else tolerance,
        front=front,
    )
    return write_checked(subject, folder, to=to, overwrite=overwrite)


@torch.no_grad()
def _tensors(twin: Joined, segments: Sequence[Segment]) -> dict[str, Tensor]:
    """Tensors by the names of ``model.py``; shared prefixes once."""
    tensors = segment_tensors(twin.members, segments, without_last=twin.output == "penultimate")
    return tensors | {f"combiner.{name}": tensor.clone() for name, tensor in twin.combiner.state_dict().items()}
