"""Genomes to start from, for any input size and number of classes."""

from collections.abc import Callable, Mapping

from graftwork.errors import GenomeError, did_you_mean
from graftwork.networks.genome._genome import Genome
from graftwork.networks.genome._parts import Block, Head, Layer, Pool, Stem
from graftwork.typing import BlockId, Shape

LARGEST_UNREDUCED = 48
"""Pixels of the shorter side up to which the default seed's stem keeps images as large as they are."""


def _plain(name: str, out_channels: int, hidden_channels: int, kernel_size: int = 3) -> Layer:
    return Layer(out_channels, (Block(BlockId(name), kernel_size, hidden_channels, 0, out_channels),))


def _poster(input_shape: Shape, num_classes: int, *, per_stage: int, width: int = 16) -> Genome:
    body: list[Layer | Pool] = []
    side = min(input_shape[1:])
    channels = max(width, input_shape[0])
    for stage in range(3):
        hidden = max(2, 2 * (channels // 4))
        body += [_plain(f"seed-{stage}-{number}", channels, hidden) for number in range(per_stage)]
        if side >= 2:
            body.append(Pool("max", 2))
            side //= 2
        channels *= 2
    return Genome(input_shape, num_classes, tuple(body), head=Head("mlp", hidden_features=128))


def poster(input_shape: Shape, num_classes: int) -> Genome:
    """The poster's h_i: three layers of 16, 32 and 64 channels, one 3×3 block each, max-pools, FC 128, FC classes."""
    return _poster(input_shape, num_classes, per_stage=1)


def base(input_shape: Shape, num_classes: int) -> Genome:
    """The poster's base network: like h_i, with six layers, 3×3 kernels only."""
    return _poster(input_shape, num_classes, per_stage=2)


def _whitening_stem(input_shape: Shape) -> Stem:
    """Keep images of up to 48 pixels as large as they are, reduce those of up to 96 by 2, and larger ones by 4.

    Where it reduces, patches overlap, and only their strongest components are kept.
    """
    channels, side = input_shape[0], min(input_shape[1:])
    stride = 1 if side <= LARGEST_UNREDUCED else 2 if side <= 2 * LARGEST_UNREDUCED else 4
    kernel, most = {1: (2 if side >= 16 else 3, 27), 2: (3, 16), 4: (5, 24)}[stride]
    return Stem("whiten", out_channels=2 * min(channels * kernel**2, most), kernel_size=kernel, stride=stride)


def default(input_shape: Shape, num_classes: int) -> Genome:
    """The default recipe's seed: a whitening stem, three stages of 3×3 blocks, a linear head after a global max-pool.

    Widths 32, 128 and 192, five layers: the shape of a quarter-size airbench94 (Jordan 2024) as a stack of residual R2R
    layers, with a wider last stage. Small images keep their size in the stem, and get fewer pools; the stem reduces
    those above 48 pixels.
    """
    return _staged(input_shape, num_classes, ((32, 1), (128, 2), (192, 2)))


def small(input_shape: Shape, num_classes: int) -> Genome:
    """The default recipe's seed for short budgets: like `default`, with widths 32, 64 and 128 and three layers."""
    return _staged(input_shape, num_classes, ((32, 1), (64, 1), (128, 1)))


def _staged(input_shape: Shape, num_classes: int, stages: tuple[tuple[int, int], ...]) -> Genome:
    """Stages of a width and a number of layers each; the first layer of each ends in a pool, if there is room."""
    stem = _whitening_stem(input_shape)
    side = -(-min(input_shape[1:]) // stem.stride) - (1 if stem.kernel_size == 2 else 0)
    body: list[Layer | Pool] = []
    width = stem.out_channels
    for stage, (channels_, depth) in enumerate(stages):
        width = max(width, channels_)
        for number in range(depth):
            body.append(_plain(f"seed-{stage}-{number}", width, channels_))
            if number == 0 and side >= 4:
                body.append(Pool("max", 2))
                side //= 2
    head = Head("linear", hidden_features=0, pooling="max", scale=0.125)
    return Genome(input_shape, num_classes, tuple(body), stem=stem, head=head, activation="gelu")


def trunk(input_shape: Shape, num_classes: int) -> Genome:
    """The seed on a pretrained trunk's features: a 1×1 stem of at most 128 channels, one block, a linear head."""
    width = min(128, input_shape[0])
    kernel_size = 3 if min(input_shape[1:]) >= 3 else 1
    stem, head = Stem("conv", out_channels=width, kernel_size=1), Head("linear", hidden_features=0, pooling="avg")
    body = (_plain("seed-0-0", width, max(2, 2 * (width // 8)), kernel_size),)
    return Genome(input_shape, num_classes, body, stem=stem, head=head, activation="gelu")


def table(input_shape: Shape, num_classes: int) -> Genome:
    """The seed on rows of a table, [features, 1, 1]: a 1×1 stem, two blocks of 1×1, a linear head."""
    width = min(128, max(32, input_shape[0]))
    stem = Stem("conv", out_channels=width, kernel_size=1)
    body = tuple(_plain(f"seed-{number}-0", width, 32, kernel_size=1) for number in range(2))
    head = Head("linear", hidden_features=0, pooling="avg")
    return Genome(input_shape, num_classes, body, stem=stem, head=head, activation="gelu")


SEEDS: Mapping[str, Callable[[Shape, int], Genome]] = {
    "poster": poster,
    "base": base,
    "default": default,
    "small": small,
    "trunk": trunk,
    "table": table,
}
"""Seed genomes by name."""


def seed_genome(name: str, input_shape: Shape, num_classes: int) -> Genome:
    """A genome to start from.

    Args:
        name: ``"poster"`` (h_i), ``"base"`` (six layers), ``"default"`` (the default recipe's), ``"small"`` (its, for
            short budgets), ``"trunk"`` (on a pretrained trunk's features) or ``"table"`` (on rows of a table).
        input_shape: Channels, height and width; pools that would leave nothing are left out.
        num_classes: Number of classes, at least 2.

    Raises:
        GenomeError: If the name is unknown.
    """
    if name not in SEEDS:
        raise GenomeError(f"seed genome: expected one of {', '.join(SEEDS)}, got {name!r}{did_you_mean(name, SEEDS)}")
    return SEEDS[name](input_shape, num_classes)
