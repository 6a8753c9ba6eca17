"""What a search over sizes leaves."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FamilyMember:
    """One finished model of a family.

    Attributes:
        folder: What `save_model` wrote; ``load_model(build, folder)`` gives the model.
        loss: Held-out loss.
        error: Standard error of the loss over the held-out batches; None for one batch.
        parameters: Number of parameters.
        update_flops: FLOPs of an update; a forward pass of a batch takes a third.
        steps: Updates from the first one to the last, those of smaller sizes included.
        flops: FLOPs of these updates.
    """

    folder: Path
    loss: float
    error: float | None
    parameters: int
    update_flops: float
    steps: int
    flops: float


@dataclass(frozen=True)
class ModuleFamily:
    """The models that one growing training has left, smallest first; prints as a table and iterates.

    Attributes:
        members: A finished model of each size.
        races: Every race, in order: the step, the growth, and what `Advice` says, as plain data; of a growth that was
            refused, why.
        flops: FLOPs of everything: the trunk, races, branches and held-out losses.
        budget: FLOPs that were planned.
    """

    members: tuple[FamilyMember, ...]
    races: tuple[Mapping[str, Any], ...]
    flops: float
    budget: float

    def __iter__(self) -> Iterator[FamilyMember]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, number: int) -> FamilyMember:
        return self.members[number]

    def __str__(self) -> str:
        lines = [f"{'model':<8} {'loss':>16} {'parameters':>12} {'GFLOP/update':>13} {'updates':>9} {'TFLOP':>9}"]
        for member in self.members:
            noise = "" if member.error is None else f" ± {member.error:.4f}"
            lines.append(
                f"{member.folder.name:<8} {f'{member.loss:.4f}{noise}':>16} {member.parameters:>12,} "
                f"{member.update_flops / 1e9:>13.4g} {member.steps:>9,} {member.flops / 1e12:>9.3g}"
            )
        won = sum(race["verdict"] == "grow" for race in self.races)
        races = f"{len(self.races)} races, {won} won"
        return "\n".join([*lines, f"{self.flops / 1e12:.3g} of {self.budget / 1e12:.3g} TFLOP; {races}"])
