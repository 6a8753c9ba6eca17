"""Forward of one item: stem, layer, pool, head; in reference form and fused."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.execution._native import (
    Convolutions,
    by_statistics,
    can_run,
    max_pool,
    run_convolutions,
    write_statistics,
)
from graftwork.execution._ops import Settings, Weights, activate, gather, normalise
from graftwork.genome import Block, Genome, Head, Layer, Pool, Stem
from graftwork.kernels import Kernels
from graftwork.typing import BlockId

__all__ = ["cancelled_scale", "penultimate_features", "pool_features", "run_head", "run_item", "run_stem"]


def run_stem(stem: Stem, x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """The stem's output [B, channels, H, W] for images [B, C, H, W]."""
    if stem.kind == "none":
        return x
    entry = weights[stem.id]
    if settings.form == "fused" and _native(x, settings):
        return _native_stem(stem, x, weights, settings)
    out = F.conv2d(x, entry["filter"], entry.get("bias"), padding=stem.padding)
    if stem.kind == "conv":
        out = normalise(out, (stem.id,), weights, settings)
    return activate(out, settings.activation)


def run_item(item: Layer | Pool, x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """The output of one layer or pool for activations [B, C, H, W]."""
    if isinstance(item, Pool):
        if (
            item.kind == "max"
            and item.size == 2
            and settings.form == "fused"
            and can_run(x)
            and Kernels.supports(x.dtype)
        ):
            return max_pool(x)
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
    ids = [block.id for block in order]
    sizes = sorted({block.kernel_size for block in order})
    filters = [gather(weights, [block.id for block in order if block.kernel_size == size], "filter") for size in sizes]
    mixing = _cat([_rows(weights[block.id]["mixing"], block, layer.out_channels) for block in order], 1)
    biases = [_rows(weights[block.id]["bias"], block, layer.out_channels) for block in order]
    mixing_bias = biases[0] if len(biases) == 1 else torch.stack(biases).sum(0)
    if _native(x, settings):
        weight, shift = _norm_tensors(ids, weights, settings, "filter_bias")
        parts = Convolutions(filters, tuple(size // 2 for size in sizes), weight, shift, mixing, mixing_bias)
        return _run_native(parts, ids, x, weights, settings)
    volumes = []
    for size, one in zip(sizes, filters, strict=True):
        group = [block.id for block in order if block.kernel_size == size]
        bias = gather(weights, group, "filter_bias") if settings.norm == "none" else None
        volumes.append(F.conv2d(x, one, bias, padding=size // 2))
    hidden = activate(normalise(_cat(volumes, 1), ids, weights, settings), settings.activation)
    out = F.conv2d(hidden, mixing, mixing_bias)
    if x.shape[1] == layer.out_channels:
        return out + x
    return out + F.pad(x, (0, 0, 0, 0, 0, layer.out_channels - x.shape[1]))


def _native(x: Tensor, settings: Settings) -> bool:
    """Whether the kernels take it: batch norm or none; gradients flow through batch statistics only."""
    fit = settings.norm in ("batch", "none") and (settings.mode == "train" or not torch.is_grad_enabled())
    return fit and can_run(x)


def _norm_tensors(
    ids: Sequence[BlockId], weights: Weights, settings: Settings, bias: str
) -> tuple[Tensor | None, Tensor]:
    """Weight and bias of the norms of some entries; without a norm only the named bias."""
    if settings.norm == "none":
        return None, gather(weights, ids, bias)
    return gather(weights, ids, "norm_weight"), gather(weights, ids, "norm_bias")


def _run_native(layer: Convolutions, ids: Sequence[BlockId], x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """Run by the kernels, by the statistics that the mode asks for."""
    if layer.weight is None or settings.mode == "train":
        return run_convolutions(x, layer, settings.activation)[0]
    if settings.mode == "evaluate":
        norming = by_statistics(layer.weight, layer.bias, ids, settings.statistics)
        return run_convolutions(x, layer, settings.activation, norming)[0]
    out, tables = run_convolutions(x, layer, settings.activation)
    widths = [len(weights[block_id]["norm_bias"]) for block_id in ids]
    write_statistics(settings.statistics, ids, widths, tables, num_values=out[:, 0].numel())
    return out


def _native_stem(stem: Stem, x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    entry = weights[stem.id]
    if stem.kind == "whiten":
        weight, bias = None, entry["bias"]
    else:
        weight, bias = _norm_tensors((stem.id,), weights, settings, "bias")
    parts = Convolutions((entry["filter"],), (stem.padding,), weight, bias)
    return _run_native(parts, (stem.id,), x, weights, settings)


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
