"""Forward of one item: stem, layer, pool, head; in reference form and fused."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.execution._ops import Settings, Weights, activate, normalise
from graftwork.genome import Block, Genome, Head, Layer, Pool, Stem
from graftwork.typing import BlockId

__all__ = ["cancelled_scale", "penultimate_features", "pool_features", "run_head", "run_item", "run_stem"]


def run_stem(stem: Stem, x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """The stem's output [B, channels, H, W] for images [B, C, H, W]."""
    if stem.kind == "none":
        return x
    entry = weights[stem.id]
    out = F.conv2d(x, entry["filter"], entry.get("bias"), padding=stem.padding)
    if stem.kind == "conv":
        out = normalise(out, (stem.id,), weights, settings)
    return activate(out, settings.activation)


def run_item(item: Layer | Pool, x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """The output of one layer or pool for activations [B, C, H, W]."""
    if isinstance(item, Pool):
        pool = F.max_pool2d if item.kind == "max" else F.avg_pool2d
        return pool(x, item.size)
    if settings.form == "reference":
        return _reference_layer(item, x, weights, settings)
    return _fused_layer(item, x, weights, settings)


def _half(tensor: Tensor, part: slice, *, dim: int = 0) -> Tensor:
    """One twin half as a tensor of its own: products may round differently where memory is aligned differently."""
    return (tensor[part] if dim == 0 else tensor[:, part]).clone()


def _reference_layer(layer: Layer, x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """Every half of every block apart: twins give the same bits, so their difference is exactly zero."""
    out = F.pad(x, (0, 0, 0, 0, 0, layer.out_channels - x.shape[1]))
    for block in layer.blocks:
        entry = weights[block.id]
        half = block.hidden_channels // 2
        parts = []
        for number, part in enumerate((slice(0, half), slice(half, None))):
            bias = _half(entry["filter_bias"], part) if "filter_bias" in entry else None
            hidden = F.conv2d(x, _half(entry["filter"], part), bias, padding=block.kernel_size // 2)
            hidden = normalise(hidden, (block.id,), weights, settings, half=number)
            hidden = activate(hidden, settings.activation)
            parts.append(F.conv2d(hidden, _half(entry["mixing"], part, dim=1)))
        written = parts[0] + parts[1] + entry["bias"].view(-1, 1, 1)
        out = out + F.pad(written, (0, 0, 0, 0, block.start, layer.out_channels - block.stop))
    return out


def _cat(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)


def _rows(tensor: Tensor, block: Block, width: int) -> Tensor:
    """Put a block's rows where it writes, zeros elsewhere: [range, …] → [width, …]."""
    if block.out_channels == width:
        return tensor
    after = [0, 0] * (tensor.dim() - 1)
    return F.pad(tensor, (*after, block.start, width - block.stop))


def _fused_layer(layer: Layer, x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """One convolution per kernel size, then one norm, one activation and one 1×1 convolution for the whole layer."""
    order = sorted(layer.blocks, key=lambda block: block.kernel_size)
    volumes = []
    for size in sorted({block.kernel_size for block in order}):
        entries = [weights[block.id] for block in order if block.kernel_size == size]
        bias = _cat([entry["filter_bias"] for entry in entries]) if settings.norm == "none" else None
        filters = _cat([entry["filter"] for entry in entries])
        volumes.append(F.conv2d(x, filters, bias, padding=size // 2))
    hidden = normalise(_cat(volumes, 1), [block.id for block in order], weights, settings)
    hidden = activate(hidden, settings.activation)
    mixing = _cat([_rows(weights[block.id]["mixing"], block, layer.out_channels) for block in order], 1)
    biases = [_rows(weights[block.id]["bias"], block, layer.out_channels) for block in order]
    out = F.conv2d(hidden, mixing, biases[0] if len(biases) == 1 else torch.stack(biases).sum(0))
    if x.shape[1] == layer.out_channels:
        return out + x
    return out + F.pad(x, (0, 0, 0, 0, 0, layer.out_channels - x.shape[1]))


def penultimate_features(genome: Genome, x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """What the last linear layer receives: [B, features] for the last activations [B, C, H, W]."""
    head, entry = genome.head, weights[genome.head.id]
    features = pool_features(head, x)
    if head.kind == "linear":
        return features
    if head.kind == "mlp":
        return activate(F.linear(features, entry["hidden"], entry["hidden_bias"]), settings.activation)
    if settings.form == "reference":
        half = head.hidden_features // 2
        parts = []
        for number, part in enumerate((slice(0, half), slice(half, None))):
            bias = _half(entry["hidden_bias"], part) if "hidden_bias" in entry else None
            hidden = F.linear(features, _half(entry["hidden"], part), bias)
            hidden = normalise(hidden, (head.id,), weights, settings, half=number)
            parts.append(activate(hidden, settings.activation))
        return torch.cat(parts, dim=1)
    hidden = F.linear(features, entry["hidden"], entry.get("hidden_bias"))
    return activate(normalise(hidden, (head.id,), weights, settings), settings.activation)


def run_head(genome: Genome, x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """Logits [B, classes] for the last activations [B, C, H, W]."""
    head, entry = genome.head, weights[genome.head.id]
    hidden = penultimate_features(genome, x, weights, settings)
    if head.kind == "r2r" and settings.form == "reference":
        halves = [slice(0, head.hidden_features // 2), slice(head.hidden_features // 2, None)]
        parts = [F.linear(_half(hidden, part, dim=1), _half(entry["weight"], part, dim=1)) for part in halves]
        logits = parts[0] + parts[1] + entry["bias"]
    else:
        logits = F.linear(hidden, entry["weight"], entry["bias"])
    return logits if head.scale == 1 else logits * head.scale


def pool_features(head: Head, x: Tensor) -> Tensor:
    """What the classifier receives: [B, features]."""
    if head.pooling == "avg":
        return x.mean(dim=(2, 3))
    if head.pooling == "max":
        return x.amax(dim=(2, 3))
    return x.flatten(1)


def cancelled_scale(
    genome: Genome, x: Tensor, weights: Weights, settings: Settings, blocks: frozenset[BlockId]
) -> float:
    """Largest sum of the terms that cancel in some blocks, ``max Σ|β|·|σ(W·x)|``: the yardstick of their rounding.

    Args:
        genome: A network that has the blocks.
        x: Normalised images [B, C, H, W].
        weights: The bank.
        settings: How to run.
        blocks: Ids of blocks whose twin halves cancel.
    """
    largest = 0.0
    x = run_stem(genome.stem, x, weights, settings)
    for item in genome.body:
        for block in item.blocks if isinstance(item, Layer) else ():
            if block.id in blocks:
                entry = weights[block.id]
                hidden = F.conv2d(x, entry["filter"], entry.get("filter_bias"), padding=block.kernel_size // 2)
                hidden = activate(normalise(hidden, (block.id,), weights, settings), settings.activation)
                largest = max(largest, float(F.conv2d(hidden.abs(), entry["mixing"].abs()).max()))
        x = run_item(item, x, weights, settings)
    return largest
