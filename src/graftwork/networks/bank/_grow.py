"""Adding the entries of a genome to a bank: initial weights.

A block starts as twin halves, so that its output is zero (the poster's zero-initialisation):
``z(x) = β·σ(W·x) − β·σ(W·x)`` with filter ``[W; W]`` and mixing ``[β, −β]``. New weights take the scale of the weights
beside them (facts: He initialisation in mid-training visibly destabilises it).
"""

from collections.abc import Iterable, Sequence
from math import sqrt

import torch
from torch import Tensor

from graftwork.errors import BankError
from graftwork.networks.bank._bank import BlockBank
from graftwork.networks.bank._whiten import whitening_filters
from graftwork.networks.genome import Block, Genome, Layer
from graftwork.numerics import matched_uniform, twin_columns, twin_rows
from graftwork.typing import BlockId, Initialisation, Role

BLOCK_ROLES: dict[str, Role] = {
    "filter": "filter",
    "filter_bias": "bias",
    "norm_weight": "norm",
    "norm_bias": "norm",
    "mixing": "mixing",
    "bias": "bias",
}


def grow_bank(
    bank: BlockBank,
    genome: Genome,
    *,
    generator: torch.Generator,
    initialisation: Initialisation = "twin",
    noise: float = 0.0,
    match_scale: bool = True,
    images: Tensor | None = None,
) -> tuple[BlockId, ...]:
    """Add every entry of ``genome`` that the bank does not hold.

    Args:
        bank: Grown in place; entries that are there stay bit-identical.
        genome: The network that will be bound.
        generator: Source of the new weights.
        initialisation: ``"twin"``: blocks start at zero output. ``"random"``: at random (control, ordinary seeds).
        noise: Standard deviation, relative to the weights' own, of what is added to the second twin half to break
            the symmetry at once. 0 adds nothing: gradients break it in a few steps.
        match_scale: Whether a new block takes the standard deviation of the trained blocks beside it; otherwise, and
            where there are none, it takes that of He et al. (2015).
        images: Float images [N, C, H, W] from whose patches a ``whiten`` stem is computed; ``None`` for other stems.

    Returns:
        The ids that were added, in forward order.

    Raises:
        BankError: If the genome has a new whitening stem and there are no images.
    """
    known = set(bank)
    missing = [block_id for block_id in genome.ids if block_id not in known]
    wanted = set(missing)
    if genome.stem.kind != "none" and genome.stem.id in wanted:
        _add_stem(bank, genome, generator, images)
    for step in genome.steps():
        if not isinstance(step.item, Layer):
            continue
        for block in step.item.blocks:
            if block.id in wanted:
                beside = _neighbours(genome, step.position, known) if match_scale else ()
                tensors = _block_tensors(bank, block, step.in_shape[0], beside, generator)
                _symmetry(tensors, initialisation, noise, generator)
                _add_block(bank, block, tensors, normed=genome.norm != "none")
    if genome.head.id in wanted:
        _add_head(bank, genome, generator)
    return tuple(missing)


def _neighbours(genome: Genome, position: int, known: set[BlockId]) -> Sequence[Block]:
    """Trained blocks of the layer at ``position``, or else of the nearest layer that has some (earlier ones first)."""
    layers = [(abs(index - position), index) for index, item in enumerate(genome.body) if isinstance(item, Layer)]
    for _, index in sorted(layers):
        item = genome.body[index]
        assert isinstance(item, Layer)
        found = [block for block in item.blocks if block.id in known]
        if found:
            return found
    return ()


def _matched(bank: BlockBank, beside: Iterable[Block], name: str, block: Block, fan_in: int, default: float) -> float:
    """Standard deviation for a tensor of ``block``: the neighbours', corrected for another fan-in."""
    same = [b for b in beside if b.kernel_size == block.kernel_size] or list(beside)
    scales = []
    for neighbour in same:
        tensor = bank[neighbour.id][name].detach()
        scales.append(float(tensor.float().square().mean().sqrt()) * sqrt(tensor[0].numel() / fan_in))
    usual = sum(scales) / len(scales) if scales else 0.0
    return usual if usual > 0 else default


def _block_tensors(
    bank: BlockBank, block: Block, in_channels: int, beside: Sequence[Block], generator: torch.Generator
) -> dict[str, Tensor]:
    taps = in_channels * block.kernel_size**2
    filter_std = _matched(bank, beside, "filter", block, taps, sqrt(2 / taps))
    mixing_std = _matched(bank, beside, "mixing", block, block.hidden_channels, sqrt(1 / block.hidden_channels))
    size = block.kernel_size
    return {
        "filter": matched_uniform(
            (block.hidden_channels, in_channels, size, size), std=filter_std, generator=generator
        ),
        "mixing": matched_uniform(
            (block.out_channels, block.hidden_channels, 1, 1), std=mixing_std, generator=generator
        ),
    }


def _symmetry(
    tensors: dict[str, Tensor], initialisation: Initialisation, noise: float, generator: torch.Generator
) -> None:
    """Make the second half of the hidden channels the twin of the first, with the sign of the mixing flipped."""
    if initialisation == "random":
        return
    filters, mixing = tensors["filter"], tensors["mixing"]
    half = filters.shape[0] // 2
    tensors["filter"] = twin_rows(filters[:half])
    tensors["mixing"] = twin_columns(mixing[:, :half])
    if noise:
        std = noise * float(filters.std())
        tensors["filter"][half:] += matched_uniform(tuple(filters[half:].shape), std=std, generator=generator)


def _add_block(bank: BlockBank, block: Block, tensors: dict[str, Tensor], *, normed: bool) -> None:
    if normed:
        tensors |= {"norm_weight": torch.ones(block.hidden_channels), "norm_bias": torch.zeros(block.hidden_channels)}
    else:
        tensors |= {"filter_bias": torch.zeros(block.hidden_channels)}
    tensors["filter"] = tensors["filter"].contiguous(memory_format=torch.channels_last)
    tensors |= {"bias": torch.zeros(block.out_channels)}
    bank.add(block.id, tensors, {name: BLOCK_ROLES[name] for name in tensors})


def _add_stem(bank: BlockBank, genome: Genome, generator: torch.Generator, images: Tensor | None) -> None:
    stem = genome.stem
    channels, size = genome.input_shape[0], stem.kernel_size
    if stem.kind == "conv":
        taps = channels * size**2
        filters = matched_uniform((stem.out_channels, channels, size, size), std=sqrt(2 / taps), generator=generator)
        tensors = {"filter": filters.contiguous(memory_format=torch.channels_last)}
        if genome.norm == "none":
            tensors["bias"] = torch.zeros(stem.out_channels)
        else:
            tensors |= {"norm_weight": torch.ones(stem.out_channels), "norm_bias": torch.zeros(stem.out_channels)}
        roles: dict[str, Role] = {name: "norm" if name.startswith("norm") else "stem" for name in tensors}
        bank.add(stem.id, tensors, roles)
        return
    if images is None:
        raise BankError(
            f"bank: expected images, from which the whitening stem {stem.id!r} is computed, got None; "
            "pass images=[N, C, H, W]"
        )
    filters = whitening_filters(images, stem.kernel_size, stem.out_channels, stride=stem.stride)
    tensors = {"filter": filters, "bias": torch.zeros(stem.out_channels)}
    bank.add(stem.id, tensors, {"filter": "stem", "bias": "stem"})
    bank.freeze(stem.id, "filter")


def _add_head(bank: BlockBank, genome: Genome, generator: torch.Generator) -> None:
    head, features, classes = genome.head, genome.head_features, genome.num_classes
    last = head.hidden_features or features
    tensors = {
        "weight": matched_uniform((classes, last), std=sqrt(1 / last), generator=generator),
        "bias": torch.zeros(classes),
    }
    if head.kind != "linear":
        tensors["hidden"] = matched_uniform(
            (head.hidden_features, features), std=sqrt(2 / features), generator=generator
        )
    if head.kind == "r2r":
        half = head.hidden_features // 2
        tensors["hidden"] = twin_rows(tensors["hidden"][:half])
        tensors["weight"] = twin_columns(tensors["weight"][:, :half])
    if head.kind == "r2r" and genome.norm != "none":
        tensors |= {"norm_weight": torch.ones(head.hidden_features), "norm_bias": torch.zeros(head.hidden_features)}
    elif head.kind != "linear":
        tensors["hidden_bias"] = torch.zeros(head.hidden_features)
    bank.add(head.id, tensors, {name: "norm" if name.startswith("norm") else "head" for name in tensors})
