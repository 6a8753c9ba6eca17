"""What the tests of exports share."""

import torch
from torch import Tensor

from graftwork.networks import Member
from graftwork.networks.execution import InputTransform
from graftwork.networks.genome import Block, Genome, Head, Layer, Pool, Stem
from graftwork.typing import BlockId
from tests.strategies import grown, scramble

NAMES = ("cat", "dog", "it's", 'a "quoted" one', "kiwi")


def block(name: str, size: int, hidden: int, start: int, stop: int) -> Block:
    return Block(BlockId(name), size, hidden, start, stop)


RICH = Genome(
    (3, 12, 10),
    4,
    (
        Layer(12, (block("b-wide", 3, 6, 0, 12), block("b_cat", 5, 4, 5, 12), block("other", 3, 4, 0, 5))),
        Pool("max", 2),
        Layer(14, (block("deep", 1, 4, 0, 14),)),
    ),
    stem=Stem("whiten", out_channels=8, kernel_size=2),
    head=Head("r2r", hidden_features=6, pooling="max", scale=0.125),
)
"""Concat and sum, two kernel sizes, a whitening stem, a scaled r2r head, batch norm."""

SPLIT = Genome(
    (1, 9, 9),
    3,
    (
        Layer(6, (block("a", 3, 8, 0, 6), block("b", 3, 4, 2, 6))),
        Pool("avg", 3),
        Layer(6, (block("c", 5, 4, 0, 6), block("d", 1, 4, 0, 6))),
    ),
    stem=Stem("conv", out_channels=6, kernel_size=3),
    head=Head("mlp", hidden_features=7, pooling="none"),
    activation="gelu",
    norm="layer",
)
"""Layer norms over groups of unequal size, flattened head, GELU, grey images."""


def ready(genome: Genome, seed: int = 0) -> Member:
    """A scrambled member in training mode."""
    generator = torch.Generator().manual_seed(seed)
    bank, member = grown(genome, generator)
    scramble(bank, [member], generator)
    return member


def transform_for(genome: Genome) -> InputTransform:
    channels = genome.input_shape[0]
    return InputTransform((0.5, 0.4, 0.3)[:channels], (0.25, 0.2, 0.3)[:channels])


def stored_images(genome: Genome, count: int, seed: int = 7) -> Tensor:
    """Bytes [count, H, W, C]."""
    channels, height, width = genome.input_shape
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, channels), generator=generator, dtype=torch.uint8)


def as_user(images: Tensor) -> Tensor:
    """What a user gives to an exported model: floats in [0, 1], [B, C, H, W]."""
    return images.permute(0, 3, 1, 2).contiguous().float() / 255


def logits(member: Member, images: Tensor) -> Tensor:
    """The member's outputs for stored bytes, in evaluation mode."""
    with torch.no_grad():
        return member.eval()(transform_for(member.genome)(images))
