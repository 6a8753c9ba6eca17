"""Forward of one item: stem, layer, pool, head; in reference form and fused."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.networks.execution._arrange import Arrangement, arrange, arrange_stem
from graftwork.networks.execution._native import (
    by_statistics,
    can_run,
    max_pool,
    run_convolutions,
    train_convolutions,
    write_statistics,
)
from graftwork.networks.execution._ops import Settings, Weights, activate, gather, join, normalise
from graftwork.networks.genome import Genome, Head, Layer, Pool, Stem
from graftwork.networks.kernels import Kernels
from graftwork.typing import BlockId


def run_stem(stem: Stem, x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """The stem's output [B, channels, H, W] for images [B, C, H, W]."""
    if stem.kind == "none":
        return x
    entry = weights[stem.id]
    if settings.form == "fused" and _native(x, settings):
        return _run_native(arrange_stem(stem, settings.norm), x, weights, settings)
    out = F.conv2d(x, entry["filter"], entry.get("bias"), padding=stem.padding, stride=stem.stride)
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


def _half(tensor: Tensor, channels: slice, *, dim: int = 0) -> Tensor:
    """One twin half as a tensor of its own: products may round differently where memory is aligned differently."""
    return (tensor[channels] if dim == 0 else tensor[:, channels]).clone()


def _reference_layer(layer: Layer, x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """Run every half of every block apart: twins give the same bits, so their difference is exactly zero."""
    out = F.pad(x, (0, 0, 0, 0, 0, layer.out_channels - x.shape[1]))
    for block in layer.blocks:
        entry = weights[block.id]
        half = block.hidden_channels // 2
        twins = []
        for number, channels in enumerate((slice(0, half), slice(half, None))):
            bias = _half(entry["filter_bias"], channels) if "filter_bias" in entry else None
            hidden = F.conv2d(x, _half(entry["filter"], channels), bias, padding=block.kernel_size // 2)
            hidden = normalise(hidden, (block.id,), weights, settings, half=number)
            hidden = activate(hidden, settings.activation)
            twins.append(F.conv2d(hidden, _half(entry["mixing"], channels, dim=1)))
        written = twins[0] + twins[1] + entry["bias"].view(-1, 1, 1)
        out = out + F.pad(written, (0, 0, 0, 0, block.start, layer.out_channels - block.stop))
    return out


def _fused_layer(layer: Layer, x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """Run one convolution per kernel size, then one norm, activation and 1×1 convolution for the whole layer."""
    plan = arrange(layer, settings.norm)
    if _native(x, settings):
        return _run_native(plan, x, weights, settings)
    filters, *_, mixing, mixing_biases = plan.by_name(plan.tensors(weights))
    volumes = []
    for group, one, padding in zip(plan.groups, plan.join_filters(filters), plan.paddings, strict=True):
        bias = gather(weights, plan.ids[group], "filter_bias") if settings.norm == "none" else None
        volumes.append(F.conv2d(x, one, bias, padding=padding))
    hidden = activate(normalise(join(volumes, 1), plan.ids, weights, settings), settings.activation)
    out = F.conv2d(hidden, *plan.join_mixing(mixing, mixing_biases))
    if x.shape[1] == layer.out_channels:
        return out + x
    return out + F.pad(x, (0, 0, 0, 0, 0, layer.out_channels - x.shape[1]))


def _native(x: Tensor, settings: Settings) -> bool:
    """Whether the kernels can run it: batch norm or none; gradients flow through batch statistics only."""
    fit = settings.norm in ("batch", "none") and (settings.mode == "train" or not torch.is_grad_enabled())
    return fit and can_run(x)


def _run_native(plan: Arrangement, x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """Run by the kernels, with the statistics that the mode asks for."""
    tensors = plan.tensors(weights)
    if settings.mode == "train" and torch.is_grad_enabled():
        return train_convolutions(x, plan, tensors, settings.activation)
    layer = plan.assemble(tensors)
    if layer.weight is None or settings.mode == "train":
        return run_convolutions(x, layer, plan, settings.activation)[0]
    if settings.mode == "evaluate":
        norming = by_statistics(layer.weight, layer.bias, plan.ids, settings.statistics)
        return run_convolutions(x, layer, plan, settings.activation, norming)[0]
    out, tables = run_convolutions(x, layer, plan, settings.activation)
    write_statistics(settings.statistics, plan.ids, plan.hidden, tables, num_values=out[:, 0].numel())
    return out


def _without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off for logits: so small a product takes longer in bfloat16, and is rounded."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


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
        twins = []
        for number, rows in enumerate((slice(0, half), slice(half, None))):
            bias = _half(entry["hidden_bias"], rows) if "hidden_bias" in entry else None
            hidden = F.linear(features, _half(entry["hidden"], rows), bias)
            hidden = normalise(hidden, (head.id,), weights, settings, half=number)
            twins.append(activate(hidden, settings.activation))
        return torch.cat(twins, dim=1)
    hidden = F.linear(features, entry["hidden"], entry.get("hidden_bias"))
    return activate(normalise(hidden, (head.id,), weights, settings), settings.activation)


def run_head(genome: Genome, x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """Logits [B, classes] for the last activations [B, C, H, W]."""
    head, entry = genome.head, weights[genome.head.id]
    hidden = penultimate_features(genome, x, weights, settings).to(entry["weight"].dtype)
    with _without_autocast(x):
        if head.kind == "r2r" and settings.form == "reference":
            halves = [slice(0, head.hidden_features // 2), slice(head.hidden_features // 2, None)]
            twins = [F.linear(_half(hidden, half, dim=1), _half(entry["weight"], half, dim=1)) for half in halves]
            logits = twins[0] + twins[1] + entry["bias"]
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

    Returns:
        The largest sum over all positions; 0 without such blocks.
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
