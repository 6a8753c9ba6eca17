"""Predictions of a run's members: as they were stored, or made again from the stored members."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from graftwork._files import damaged
from graftwork.datasets import cache_folder
from graftwork.errors import RunError
from graftwork.machine import Machine
from graftwork.networks import Member
from graftwork.networks.execution import Output, using_kernels, walk
from graftwork.networks.kernels import build
from graftwork.runs import RunFolder, load_member, record_opening
from graftwork.session._config import SearchConfig
from graftwork.session._learned import moments_of
from graftwork.session._problem import Problem
from graftwork.session._trunk import trunk_of
from graftwork.training import in_precision

SPLITS = ("blend", "validation", "test")


@dataclass(frozen=True)
class StoredPredictions:
    """Logits of members on one split.

    Args:
        outputs: float32 [example, member, class].
        labels: int64 [example].
        groups: What belongs together, int64 [example]; ``None``: not stored, as only of the blend split it is.
    """

    outputs: Tensor
    labels: Tensor
    groups: Tensor | None = None

    @classmethod
    def load(cls, run: RunFolder, split: str, members: Sequence[str]) -> "StoredPredictions":
        """Read the stored logits of some members.

        Raises:
            RunError: If a member has no stored predictions.
        """
        tensors = run.load_tensors(f"predictions/{split}.safetensors")
        missing = [name for name in members if name not in tensors]
        if missing:
            raise RunError(
                f"{run.path}: expected {split} predictions of {', '.join(members)}, got none of {', '.join(missing)}; "
                "take members that are in result.json"
            )
        outputs = torch.stack([tensors[name] for name in members], dim=1)
        return cls(outputs, tensors["labels"], tensors.get("groups"))

    @classmethod
    def load_penultimate(cls, run: RunFolder, split: str, members: Sequence[str]) -> "StoredPredictions":
        """Read their stored penultimate features instead: ``outputs`` is [example, member, feature]."""
        return cls.load(run, f"{split}-penultimate", members)


def options_of(path: Path) -> SearchConfig:
    """Options that stand in a run folder, to begin another run with; a seed network that was changed is taken, too.

    Args:
        path: Run folder, whatever its state.
    """
    run = RunFolder.open(path)
    config = SearchConfig.load(run.config_path)
    try:
        run.read_json("seed_genome.json")
    except RunError:  # not the one that the run was begun with
        if run.has("seed_genome.json"):
            return replace(config, genome=str(path / "seed_genome.json"))
    return config


def problem_of(run: RunFolder, *, trunk: str | None = None) -> Problem:
    """Load the data that a run was made on, split as they were.

    Args:
        run: The run.
        trunk: Its trunk, named by the user again, without which no code of one is run.

    Raises:
        RunError: If they are other data now.
        DataError: If they are not there.
    """
    config = SearchConfig.load(run.config_path)
    with damaged(f"{run.path / 'provenance.json'}"):
        data = run.read_json("provenance.json")["data"]
        expected = str(data["fingerprint"])
    if config.trunk_rate == 0:
        problem = Problem.load(config, trunk=trunk_of(run, trunk))
        found = problem.dataset.fingerprint
    else:  # its training is over: from now on it is as any frozen one, but for how its features are normalised
        problem = Problem.load(replace(config, trunk_rate=0.0), trunk=trunk_of(run, trunk))
        with damaged(f"{run.path / 'provenance.json'}"):
            problem = replace(problem, transform=moments_of(data["trunk"]))
        found = "" if problem.pixels is None else problem.pixels.fingerprint
    if found != expected:
        raise RunError(
            f"{run.path}: expected the data that the run was made on ({expected[:12]}) in {config.data!r}, got "
            f"{found[:12]}; bring the old data back"
        )
    return problem


def run_together(members: Sequence[Member], images: Tensor, output: Output) -> Tensor:
    """Run members on normalised images, shared prefixes once; return [B, K, features]."""
    outputs = dict(walk(members, images, "evaluate", output=output))
    return torch.stack([outputs[index] for index in range(len(members))], dim=1)


@torch.no_grad()
def run_members(
    run: RunFolder, names: Sequence[str], images: Tensor, *, output: Output = "logits", batch_size: int = 500
) -> Tensor:
    """Run stored members on images, in the precision and by the passes of the run, in batches as scoring makes them.

    Args:
        run: A finished run.
        names: Ids of members.
        images: uint8 [N, H, W, C].
        output: What to compute.
        batch_size: Images in one pass; the last bits of the result depend on it.

    Returns:
        float32 [N, K, features]; logits on images that the run has scored are those that it stored (within rounding
        where the run had compiled passes and they can't be built here).
    """
    loaded = [load_member(run, name) for name in names]
    members, transform = [entry[0] for entry in loaded], loaded[0][1]
    machine = Machine.from_dict(run.read_json("provenance.json")["machine"])
    kernels = build(cache_folder()) if machine.passes == "compiled" else None
    with using_kernels(kernels), in_precision(machine.precision, torch.device("cpu")):
        parts = [run_together(members, transform(part), output).float() for part in torch.split(images, batch_size)]
    return torch.cat(parts)


def store_penultimate(run: RunFolder, members: Sequence[str], *, trunk: str | None = None) -> None:
    """Run members that were not run before on blend, validation and test, and store their penultimate features.

    Args:
        run: A finished run.
        members: Ids of members.
        trunk: The run's trunk, named by the user again, without which no code of one is run.

    Raises:
        RunError: If the members' features differ in number, or as `problem_of` says.
    """
    if all(_has_penultimate(run, split, members) for split in SPLITS):
        return
    problem = problem_of(run, trunk=trunk)
    widths = {load_member(run, name)[0].genome.penultimate_features for name in members}
    if len(widths) > 1:
        raise RunError(
            f"{run.path}: expected members with one number of penultimate features, got {sorted(widths)}; stack "
            "logits, or members that agree"
        )
    record_opening(run, by="ensemble --features penultimate", members=members)
    for split in SPLITS:
        images = problem.test()[0] if split == "test" else problem.images(getattr(problem.splits, split))
        outputs = run_members(run, members, images, output="penultimate")
        name = f"predictions/{split}-penultimate.safetensors"
        kept = run.load_tensors(name) if run.has(name) else {}
        stored = run.load_tensors(f"predictions/{split}.safetensors")
        kept |= {key: stored[key] for key in ("labels", "groups") if key in stored}
        run.save_tensors(name, {**kept, **dict(zip(members, outputs.unbind(1), strict=True))})


def _has_penultimate(run: RunFolder, split: str, members: Sequence[str]) -> bool:
    path = f"predictions/{split}-penultimate.safetensors"
    return run.has(path) and set(members) <= set(run.load_tensors(path))
