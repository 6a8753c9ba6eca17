"""Norms and activations as functions of tensors."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.networks.kernels import EPSILON
from graftwork.typing import Activation, BlockId, Norm

Statistics = MutableMapping[BlockId, tuple[Tensor, Tensor]]
"""Running mean and variance [channels] of the batch norm of each entry."""

Mode = Literal["train", "evaluate", "calibrate"]
Form = Literal["fused", "reference"]

Weights = Mapping[BlockId, Mapping[str, Tensor]]

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "leaky_relu": F.leaky_relu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run, apart from what to run.

    Args:
        mode: ``"train"`` normalises by the batch and writes nothing; ``"evaluate"`` by ``statistics``;
            ``"calibrate"`` by the batch, and writes what it found into ``statistics``.
        form: ``"reference"`` runs every half of every block apart; ``"fused"`` all blocks of a layer at once.
        activation: The genome's activation.
        norm: The genome's norm.
        statistics: The member's running statistics.
    """

    mode: Mode
    form: Form
    activation: Activation
    norm: Norm
    statistics: Statistics = field(default_factory=dict)


def activate(hidden: Tensor, activation: Activation) -> Tensor:
    """σ: acts on each value alone, so twin halves stay twins."""
    return _ACTIVATIONS[activation](hidden)


def join(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Concatenate tensors; a lone one is returned as it is."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)


def gather(weights: Weights, ids: Sequence[BlockId], name: str) -> Tensor:
    """Concatenate the tensors of one name of some entries."""
    return join([weights[block_id][name] for block_id in ids])


def normalise(
    hidden: Tensor,
    ids: Sequence[BlockId],
    weights: Weights,
    settings: Settings,
    *,
    half: int | None = None,
) -> Tensor:
    """Normalise the hidden volumes of some entries, which lie side by side in ``hidden``.

    Args:
        hidden: Volumes [B, channels, …] of ``ids``, in this order.
        ids: Entries that have ``norm_weight`` and ``norm_bias``.
        weights: The bank.
        settings: Norm, mode and statistics.
        half: 0 or 1: ``hidden`` holds only this twin half of the one entry in ``ids``. ``None``: whole volumes.

    Returns:
        A tensor shaped as ``hidden``.
    """
    if settings.norm == "none":
        return hidden
    scales = [weights[block_id]["norm_weight"] for block_id in ids]
    widths = [scale.shape[0] for scale in scales]
    channels = slice(None) if half is None else slice(half * widths[0] // 2, (half + 1) * widths[0] // 2)
    weight = join(scales)[channels]
    bias = join([weights[block_id]["norm_bias"] for block_id in ids])[channels]
    if settings.norm == "batch":
        return _batch_norm(hidden, ids, weight, bias, widths, channels, settings)
    if settings.norm == "instance":
        return torch.group_norm(hidden, hidden.shape[1], weight, bias, EPSILON)
    return _layer_norm(hidden, weight, bias, [hidden.shape[1]] if half is not None else _halves(widths))


def _halves(widths: Sequence[int]) -> list[int]:
    return [width // 2 for width in widths for _ in range(2)]


def _layer_norm(hidden: Tensor, weight: Tensor, bias: Tensor, groups: Sequence[int]) -> Tensor:
    """Normalise over channels and positions inside each group of channels, so that halves and blocks never mix."""
    if len(set(groups)) == 1:
        return torch.group_norm(hidden, len(groups), weight, bias, EPSILON)
    sizes = list(groups)
    split = zip(torch.split(hidden, sizes, 1), torch.split(weight, sizes), torch.split(bias, sizes), strict=True)
    return torch.cat([torch.group_norm(h, 1, w, b, EPSILON) for h, w, b in split], dim=1)


def _batch_norm(
    hidden: Tensor,
    ids: Sequence[BlockId],
    weight: Tensor,
    bias: Tensor,
    widths: Sequence[int],
    channels: slice,
    settings: Settings,
) -> Tensor:
    if settings.mode == "train":
        return F.batch_norm(hidden, None, None, weight, bias, training=True, eps=EPSILON)
    statistics = settings.statistics
    if settings.mode == "evaluate":
        mean = join([statistics[block_id][0] for block_id in ids])[channels]
        variance = join([statistics[block_id][1] for block_id in ids])[channels]
        return F.batch_norm(hidden, mean, variance, weight, bias, training=False, eps=EPSILON)
    mean, variance = torch.zeros_like(weight).detach(), torch.ones_like(weight).detach()
    out = F.batch_norm(hidden, mean, variance, weight, bias, training=True, momentum=1.0, eps=EPSILON)
    if channels == slice(None):
        pieces = zip(ids, torch.split(mean, list(widths)), torch.split(variance, list(widths)), strict=True)
        statistics.update({block_id: (m.clone(), v.clone()) for block_id, m, v in pieces})
    else:
        old = statistics.get(ids[0], (mean.new_zeros(widths[0]), mean.new_ones(widths[0])))
        filled = tuple(value.to(mean, copy=True) for value in old)
        filled[0][channels], filled[1][channels] = mean, variance
        statistics[ids[0]] = (filled[0], filled[1])
    return out
