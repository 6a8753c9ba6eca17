"""Members on disk: genome and lineage as JSON, weights and running statistics as safetensors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graftwork._files import damaged
from graftwork.errors import RunError
from graftwork.evolution import Birth, Population
from graftwork.networks import Member, bind
from graftwork.networks.bank import BlockBank, check_entries
from graftwork.networks.execution import Form, InputTransform
from graftwork.networks.genome import Genome, forward_flops, num_parameters
from graftwork.runs._folder import RunFolder
from graftwork.typing import BlockId, MemberId

StoredMember = tuple[Member, InputTransform, dict[str, Any]]
"""A member in evaluation mode, its input transform, and the JSON beside it."""


def _birth_row(birth: Birth) -> dict[str, Any]:
    return {"id": birth.id, "parent": birth.parent, "transform": birth.transform, "generation": birth.generation}


def save_member(
    run: RunFolder,
    population: Population,
    member_id: MemberId,
    *,
    name: str | None = None,
    transform: InputTransform,
    class_names: Sequence[str],
    scores: Mapping[str, float | None],
) -> None:
    """Write ``members/<name>.json`` and ``.safetensors``.

    Args:
        run: The folder.
        population: That holds the member.
        member_id: Which one.
        name: Of the files; ``None``: the member's id.
        transform: From stored bytes to network input.
        class_names: In order of labels.
        scores: ``validation_accuracy`` and, once the test split is opened, ``test_accuracy``.
    """
    member, name = population[member_id], name or member_id
    ancestors = population.ancestors(member_id)
    tensors = {key: parameter.detach() for key, parameter in member.parameters_by_key().items()}
    for block_id, (mean, variance) in member.statistics.items():
        tensors[f"{block_id}/running_mean"], tensors[f"{block_id}/running_var"] = mean, variance
    run.save_tensors(f"members/{name}.safetensors", tensors)
    layout = population.bank.layout()
    data = {
        **_birth_row(ancestors[-1]),
        "id": name,
        "ancestors": [_birth_row(birth) for birth in ancestors],
        "genome": member.genome.to_dict(),
        "parent_genome": ancestors[-2].genome.to_dict() if len(ancestors) > 1 else None,
        "validation_accuracy": None,
        "test_accuracy": None,
        **scores,
        "parameters": num_parameters(member.genome),
        "flops": forward_flops(member.genome),
        "input": {"mean": list(transform.mean), "std": list(transform.std)},
        "class_names": list(class_names),
        "layout": {block_id: layout[block_id] for block_id in member.genome.ids},
    }
    run.write_json(f"members/{name}.json", data)


def load_member(run: RunFolder, name: str, *, form: Form = "fused") -> StoredMember:
    """Read a member that `save_member` wrote: a network over a bank of its own, in evaluation mode.

    Raises:
        RunError: If the run has no such member, or its files do not fit together.
    """
    if not run.has(f"members/{name}.json"):
        there = ", ".join(run.names("members", ".json")) or "none yet"
        raise RunError(f"{run.path} has no member {name!r}; there are: {there}")
    data = run.read_json(f"members/{name}.json")
    tensors = run.load_tensors(f"members/{name}.safetensors")
    with damaged(f"{run.path}: member {name!r}"):
        return (*_bound(data, tensors, form), data)


def _bound(data: Mapping[str, Any], tensors: dict[str, torch.Tensor], form: Form) -> tuple[Member, InputTransform]:
    statistics: dict[BlockId, tuple[torch.Tensor, torch.Tensor]] = {}
    for key in [key for key in tensors if key.endswith("/running_mean")]:
        block_id = key.removesuffix("/running_mean")
        statistics[BlockId(block_id)] = (tensors.pop(key), tensors.pop(f"{block_id}/running_var"))
    bank = BlockBank.from_state(tensors, data["layout"])
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise RunError("expected finite weights, got NaN or infinity; take another member")
    genome = Genome.from_dict(data["genome"])
    check_entries(genome, bank)
    member = bind(genome, bank, form=form)
    shapes = {block_id: (mean.shape, variance.shape) for block_id, (mean, variance) in member.statistics.items()}
    if {block_id: (mean.shape, variance.shape) for block_id, (mean, variance) in statistics.items()} != shapes:
        raise RunError("expected running statistics of every norm; the member is damaged")
    member.statistics.update(statistics)
    return member.eval(), _transform(data, genome)


def _transform(data: Mapping[str, Any], genome: Genome) -> InputTransform:
    """How images are normalised; with that, the names of the classes are checked."""
    names, mean, std = data["class_names"], tuple(data["input"]["mean"]), tuple(data["input"]["std"])
    fits = len(names) == genome.num_classes and len(mean) == len(std) == genome.input_shape[0]
    if not fits or not all(math.isfinite(value) for value in (*mean, *std)) or min(std) <= 0:
        raise RunError("expected a name of each class, and mean and deviation of each channel; the member is damaged")
    return InputTransform(mean, std)
