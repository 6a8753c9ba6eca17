"""A member's weights and statistics by the names of ``model.py``: what ``model.safetensors`` holds."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graftwork.exporting._source import fused_blocks, halves
from graftwork.networks import Member
from graftwork.networks.execution import Segment
from graftwork.networks.genome import Layer
from graftwork.typing import BlockId


def _norm_tensors(member: Member, norm: str, blocks: Sequence[tuple[BlockId, int]]) -> dict[str, Tensor]:
    """Tensors of the norm module named ``norm`` over the volumes of some entries: (id, channels)."""
    entries = [member.weights[block_id] for block_id, _ in blocks]
    weight = torch.cat([entry["norm_weight"] for entry in entries])
    bias = torch.cat([entry["norm_bias"] for entry in entries])
    groups = halves([width for _, width in blocks])
    if member.genome.norm == "layer" and len(set(groups)) > 1:
        parts = zip(torch.split(weight, groups), torch.split(bias, groups), strict=True)
        return {
            f"{norm}.norms.{number}.{name}": tensor
            for number, pair in enumerate(parts)
            for name, tensor in zip(("weight", "bias"), pair, strict=True)
        }
    tensors = {f"{norm}.weight": weight, f"{norm}.bias": bias}
    if member.genome.norm == "batch":
        means, variances = zip(*(member.statistics[block_id] for block_id, _ in blocks), strict=True)
        tensors |= {f"{norm}.running_mean": torch.cat(means), f"{norm}.running_var": torch.cat(variances)}
        tensors[f"{norm}.num_batches_tracked"] = torch.tensor(0)
    return tensors


def _layer_tensors(member: Member, layer: Layer, prefix: str) -> dict[str, Tensor]:
    fused = fused_blocks(layer)
    tensors: dict[str, Tensor] = {}
    for size, group in fused.items():
        name = f"{prefix}.convolutions.{size}x{size}"
        tensors[f"{name}.weight"] = torch.cat([member.weights[block.id]["filter"] for block in group])
        if member.genome.norm == "none":
            tensors[f"{name}.bias"] = torch.cat([member.weights[block.id]["filter_bias"] for block in group])
    blocks = [block for group in fused.values() for block in group]
    if member.genome.norm != "none":
        tensors |= _norm_tensors(member, f"{prefix}.norm", [(block.id, block.hidden_channels) for block in blocks])
    like = member.weights[blocks[0].id]["mixing"]
    mixing = like.new_zeros(layer.out_channels, sum(block.hidden_channels for block in blocks), 1, 1)
    bias = like.new_zeros(layer.out_channels)
    column = 0
    for block in blocks:
        mixing[block.start : block.stop, column : column + block.hidden_channels] = member.weights[block.id]["mixing"]
        bias[block.start : block.stop] += member.weights[block.id]["bias"]
        column += block.hidden_channels
    return tensors | {f"{prefix}.mixing.weight": mixing, f"{prefix}.mixing.bias": bias}


def _stem_tensors(member: Member, prefix: str) -> dict[str, Tensor]:
    stem = member.genome.stem
    if stem.kind == "none":
        return {}
    entry = member.weights[stem.id]
    tensors = {f"{prefix}.0.weight": entry["filter"]}
    if "bias" in entry:
        tensors[f"{prefix}.0.bias"] = entry["bias"]
    if "norm_weight" in entry:
        tensors |= _norm_tensors(member, f"{prefix}.1", [(stem.id, stem.out_channels)])
    return tensors


def _stem_modules(member: Member) -> int:
    """How many modules the stem is: convolution, norm, activation."""
    stem = member.genome.stem
    return 0 if stem.kind == "none" else 3 if "norm_weight" in member.weights[stem.id] else 2


def _head_tensors(member: Member, prefix: str, *, without_last: bool = False) -> dict[str, Tensor]:
    head = member.genome.head
    entry = member.weights[head.id]
    names = {"hidden": f"{prefix}.0.weight", "hidden_bias": f"{prefix}.0.bias"}
    tensors = {names[name]: tensor for name, tensor in entry.items() if name in names}
    if "norm_weight" in entry:
        tensors |= _norm_tensors(member, f"{prefix}.1", [(head.id, head.hidden_features)])
    if without_last:
        return tensors
    last = 0 if head.kind == "linear" else 3 if "norm_weight" in entry else 2
    return tensors | {f"{prefix}.{last}.weight": entry["weight"], f"{prefix}.{last}.bias": entry["bias"]}


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


@torch.no_grad()
def plain_tensors(member: Member) -> dict[str, Tensor]:
    """The member's weights and statistics by the names of ``model.py``: copies on the CPU, in their own precision."""
    tensors = _stem_tensors(member, "stem")
    for position, item in enumerate(member.genome.body):
        if isinstance(item, Layer):
            tensors |= _layer_tensors(member, item, f"body.{position}")
    return _copies(tensors | _head_tensors(member, "head"))


@torch.no_grad()
def segment_tensors(
    members: Sequence[Member], segments: Sequence[Segment], *, without_last: bool = False
) -> dict[str, Tensor]:
    """The same for an ensemble, without its combiner: each segment of the trie once, and a head for each member.

    Args:
        members: Members of the ensemble.
        segments: Trie of the members.
        without_last: Whether the last linear layers are left out.
    """
    tensors: dict[str, Tensor] = {}
    for number, segment in enumerate(segments):
        member, prefix, offset = members[segment.members[0]], f"segments.{number}", 0
        if segment.parent is None:
            tensors |= _stem_tensors(member, prefix)
            offset = _stem_modules(member)
        for place, item in enumerate(member.genome.body[segment.start : segment.stop], start=offset):
            if isinstance(item, Layer):
                tensors |= _layer_tensors(member, item, f"{prefix}.{place}")
    for number, member in enumerate(members):
        tensors |= _head_tensors(member, f"heads.{number}", without_last=without_last)
    return _copies(tensors)
