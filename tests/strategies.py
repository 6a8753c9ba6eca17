"""Random genomes for Hypothesis, and networks on which a wrong growth shows.

A freshly grown R2R network is nearly the identity, so laws are tested on *scrambled* ones: every parameter and every
running statistic is moved away from its start.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from graftwork.evolution.transforms import R2RDeepen, R2RWiden
from graftwork.networks import Member, bind, recalibrate
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.genome import Block, Genome, Head, Layer, Pool, Stem
from graftwork.typing import ACTIVATIONS, KERNEL_SIZES, NORMS, Activation, BlockId, Norm, Shape

__all__ = [
    "double",
    "family",
    "genomes",
    "grown",
    "heads",
    "layers",
    "random_images",
    "scramble",
    "seeds",
    "stems",
    "with_own_top",
]

seeds = st.integers(0, 2**31 - 1)
"""Seeds of torch generators."""


def _even(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low // 2, high // 2).map(lambda half: 2 * half)


@st.composite
def stems(draw: st.DrawFn, input_shape: Shape, norm: Norm) -> Stem:
    """Any stem that fits the images: none, conv or whiten, kernels 1, 2, 3 and 5, strides 1 and 2."""
    kind = draw(st.sampled_from(["none", "conv", "whiten"]))
    if kind == "none":
        return Stem()
    size = draw(st.sampled_from([k for k in (1, 2, 3, 5) if k <= min(input_shape[1:])]))
    stride = draw(st.sampled_from([1, 1, 2] if size > 1 else [1]))
    if kind == "conv":
        return Stem("conv", BlockId("stem"), draw(_even(2, 6) if norm == "layer" else st.integers(1, 6)), size, stride)
    most = min(8, 2 * input_shape[0] * size**2)
    return Stem("whiten", BlockId("stem"), draw(_even(2, most)), size, stride)


@st.composite
def _ranges(draw: st.DrawFn, width: int, count: int) -> list[tuple[int, int]]:
    """Channel ranges of ``count`` blocks: all summed, all concatenated, or each anywhere."""
    kind = draw(st.sampled_from(["sum", "concat", "any"]))
    if kind == "concat" and width >= count > 1:
        inner = st.lists(st.integers(1, width - 1), min_size=count - 1, max_size=count - 1, unique=True)
        cuts = [0, *sorted(draw(inner)), width]
        return list(pairwise(cuts))
    if kind == "any":
        starts = [draw(st.integers(0, width - 1)) for _ in range(count)]
        return [(start, draw(st.integers(start + 1, width))) for start in starts]
    return [(0, width)] * count


@st.composite
def layers(draw: st.DrawFn, in_channels: int, prefix: str, *, max_blocks: int = 3) -> Layer:
    """A layer that reads ``in_channels``; its blocks are named ``prefix`` and a letter."""
    width = in_channels + draw(st.sampled_from([0, 0, 1, 2, 5]))
    count = draw(st.integers(1, max_blocks))
    blocks = [
        Block(BlockId(f"{prefix}{letter}"), draw(st.sampled_from(KERNEL_SIZES)), draw(_even(2, 6)), start, stop)
        for letter, (start, stop) in zip("abcdefgh", draw(_ranges(width, count)), strict=False)
    ]
    return Layer(width, tuple(blocks))


@st.composite
def heads(draw: st.DrawFn, norm: Norm) -> Head:
    """Any head: mlp, linear or r2r (not under instance norm), every pooling, scaled or not."""
    kind = draw(st.sampled_from(["mlp", "linear"] if norm == "instance" else ["mlp", "linear", "r2r"]))
    hidden = {"linear": st.just(0), "r2r": _even(2, 8), "mlp": st.integers(1, 8)}[kind]
    pooling = draw(st.sampled_from(["none", "avg", "max"]))
    scale = draw(st.sampled_from([1.0, 1.0, 0.125, 3.0]))
    return Head(kind, hidden_features=draw(hidden), pooling=pooling, scale=scale)  # type: ignore[arg-type]


@st.composite
def genomes(
    draw: st.DrawFn,
    *,
    max_layers: int = 4,
    max_blocks: int = 3,
    norms: Sequence[Norm] = NORMS,
    activations: Sequence[Activation] = ACTIVATIONS,
) -> Genome:
    """Any valid genome of small size: deep, wide, concat, every stem, head, norm, activation, pools anywhere.

    Images have 1 to 3 channels and sides of 4 to 9 pixels, not always square. Layer ``n`` names its blocks ``b{n}a``,
    ``b{n}b``, …; stem and head keep their usual ids.
    """
    norm = draw(st.sampled_from(norms))
    input_shape = draw(st.tuples(st.integers(1, 3), st.integers(4, 9), st.integers(4, 9)))
    stem = draw(stems(input_shape, norm))
    side = (min(input_shape[1:]) + 2 * stem.padding - stem.kernel_size) // stem.stride + 1
    side = min(input_shape[1:]) if stem.kind == "none" else side
    channels = input_shape[0] if stem.kind == "none" else stem.out_channels
    body: list[Layer | Pool] = []
    for number in range(draw(st.integers(1, max_layers))):
        layer = draw(layers(channels, f"b{number}", max_blocks=max_blocks))
        body.append(layer)
        channels = layer.out_channels
        size = draw(st.sampled_from([0, 0, 2, 3]))
        if 0 < size <= side:
            at = draw(st.sampled_from([len(body), len(body) - 1]))  # after the layer, or before it
            body.insert(at, Pool(draw(st.sampled_from(["max", "avg"])), size))
            side //= size
    return Genome(
        input_shape,
        draw(st.integers(2, 5)),
        tuple(body),
        stem=stem,
        head=draw(heads(norm)),
        activation=draw(st.sampled_from(activations)),
        norm=norm,
    )


def random_images(genome: Genome, count: int, generator: torch.Generator) -> Tensor:
    """Normalised float32 images [count, C, H, W]."""
    return torch.randn(count, *genome.input_shape, generator=generator)


def grown(genome: Genome, generator: torch.Generator, *, bank: BlockBank | None = None) -> tuple[BlockBank, Member]:
    """A bank that holds the genome's blocks (a new one where ``None``), and the genome bound to it."""
    owner = BlockBank() if bank is None else bank
    grow_bank(owner, genome, generator=generator, images=random_images(genome, 32, generator))
    return owner, bind(genome, owner)


@torch.no_grad()
def scramble(bank: BlockBank, members: Iterable[Member], generator: torch.Generator, *, strength: float = 0.5) -> None:
    """Move every parameter (fixed ones too) and every running statistic, in place, so that nothing is special.

    Args:
        bank: Its parameters get normal noise of ``strength`` times their own root mean square (times 1 where zero).
        members: Their means get noise of ``strength``; their variances are multiplied by values around 1.
        generator: Source of the noise.
        strength: 0 moves nothing.
    """

    def noise(like: Tensor) -> Tensor:
        return strength * torch.randn(like.shape, generator=generator).to(like)

    for _, parameter, _ in bank.parameters():
        size = float(parameter.double().square().mean().sqrt())
        parameter.add_(noise(parameter) * (size or 1.0))
    for member in members:
        for mean, variance in member.statistics.values():
            mean.add_(noise(mean))
            variance.mul_(torch.exp(noise(variance)))


def double(bank: BlockBank, members: Iterable[Member]) -> None:
    """Turn the bank and the members over it to float64, in place."""
    for _, parameter, _ in bank.parameters():
        parameter.data = parameter.data.double()
    for member in members:
        member.double()


def family(genome: Genome, seed: int) -> list[Member]:
    """A network, children that part from it early and late, and a twin; on one bank, with statistics."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    places = [number for number, item in enumerate(genome.body) if isinstance(item, Layer)]
    growths = [R2RWiden(places[0], 3, 2)(genome, rng=rng), R2RDeepen(len(genome.body), (1,), 2)(genome, rng=rng)]
    bank, member = grown(genome, generator)
    for growth in growths:
        growth.graft(bank, generator=generator)
    members = [member, *(bind(growth.child, bank) for growth in growths), bind(genome, bank)]
    scramble(bank, members, generator)
    recalibrate(members, random_images(genome, 8, generator))
    return [member.eval() for member in members]


def with_own_top(genome: Genome, layer: int, suffix: str) -> tuple[Genome, dict[BlockId, BlockId]]:
    """Give all blocks from a layer on, and the head, names of their own.

    Args:
        genome: Its stem and first layers stay shared.
        layer: Number of the first layer, from 0, whose blocks are renamed; behind all layers: the head alone.
        suffix: Of the new names.

    Returns:
        The renamed genome, and new name → old name.
    """
    copies: dict[BlockId, BlockId] = {}

    def renamed(block: Block | Head) -> BlockId:
        name = BlockId(f"{block.id}{suffix}")
        copies[name] = block.id
        return name

    own, body = genome.layers[layer:], list(genome.body)
    for position, item in enumerate(body):
        if isinstance(item, Layer) and item in own:
            body[position] = replace(item, blocks=tuple(replace(block, id=renamed(block)) for block in item.blocks))
    return genome.replace(body=tuple(body), head=replace(genome.head, id=renamed(genome.head))), copies
