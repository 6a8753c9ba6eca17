"""A genome that describes no network is refused, and the message names the place."""

from collections.abc import Callable

import pytest

from graftwork.errors import GenomeError
from graftwork.networks.genome import Block, Genome, Head, Layer, Pool, Stem
from graftwork.typing import BlockId

SHAPE = (3, 8, 8)


def block(name: str = "a", *, size: int = 3, hidden: int = 4, start: int = 0, stop: int = 6) -> Block:
    return Block(BlockId(name), size, hidden, start, stop)


def layer(*blocks: Block, width: int = 6) -> Layer:
    return Layer(width, blocks or (block(),))


WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: block("b7", size=4), r"block 'b7': kernel_size: expected 1, 3 or 5, got 4"),
    (lambda: block("b7", hidden=5), r"block 'b7': hidden_channels: expected an even .* got 5; use 6"),
    (lambda: block("b7", hidden=0), r"block 'b7': hidden_channels: expected an integer >= 1, got 0"),
    (lambda: block("b7", start=4, stop=4), r"block 'b7'.*\[4, 4\)"),
    (lambda: block("b7", start=-1), r"block 'b7'.*\[-1, 6\)"),
    (lambda: block("no spaces"), r"no spaces.*letters, digits"),
    (lambda: Layer(6, ()), r"layer: expected at least one block"),
    (lambda: layer(block("b7", stop=7)), r"layer: block 'b7': expected .* 6 channels, got \[0, 7\)"),
    (lambda: Pool("mean"), r"pool: kind: expected one of max, avg, got 'mean'"),  # type: ignore[arg-type]
    (lambda: Pool("max", 0), r"pool: size: expected an integer >= 1, got 0"),
    (lambda: Stem("none", out_channels=4), r"stem: out_channels: expected 0 for kind 'none', got 4"),
    (lambda: Stem("whiten", out_channels=3), r"stem: out_channels: expected an even number"),
    (lambda: Stem("conv", out_channels=4, kernel_size=7), r"stem: kernel_size: expected 1, 2, 3 or 5, got 7"),
    (lambda: Stem("none", stride=2), r"stem: stride: expected 1 for kind 'none', got 2"),
    (lambda: Stem("conv", out_channels=4, kernel_size=1, stride=2), r"stem: stride: expected at most the kernel size"),
    (lambda: Head("linear"), r"head: hidden_features: expected 0 for kind 'linear', got 128"),
    (lambda: Head("r2r", hidden_features=7), r"head: hidden_features: expected an even number"),
    (lambda: Head(scale=0.0), r"head: scale: expected a number > 0 and < 1e6, got 0.0"),
    (lambda: Genome(SHAPE, 1, (layer(),)), r"num_classes: expected an integer >= 2, got 1"),
    (lambda: Genome((3, 8), 2, (layer(),)), r"input_shape: expected \(channels, height, width\)"),  # type: ignore[arg-type]
    (lambda: Genome((3, 0, 8), 2, (layer(),)), r"input height: expected an integer >= 1, got 0"),
    (lambda: Genome(SHAPE, 2, (Pool(),)), r"body: expected at least one layer"),
    (lambda: Genome(SHAPE, 2, (layer(), layer())), r"got 'a' twice, in layer 0 and in layer 1"),
    (lambda: Genome(SHAPE, 2, (layer(block("head")),)), r"got 'head' twice, in head and in layer 0"),
    (lambda: Genome(SHAPE, 2, (layer(), Pool(size=3), Pool(size=3))), r"pool 2: .* of its 2x2 input"),
    (
        lambda: Genome(SHAPE, 2, (layer(), layer(block("b"), width=6), layer(block("c", stop=5), width=5))),
        r"layer 2: out_channels: expected at least the 6",
    ),
    (lambda: Genome((1, 8, 8), 2, (layer(width=24),), stem=Stem("whiten", out_channels=20)), r"at most 18, .* got 20"),
    (
        lambda: Genome((3, 4, 8), 2, (layer(width=24),), stem=Stem("whiten", out_channels=8, kernel_size=5)),
        r"stem: kernel_size: expected whitening patches .* 4x8 images, got 5x5",
    ),
    (
        lambda: Genome((3, 1, 8), 2, (layer(width=24),), stem=Stem("conv", out_channels=8, kernel_size=2)),
        r"stem: kernel_size: expected .* of 1x8 images, got 2",
    ),
    (
        lambda: Genome(SHAPE, 2, (layer(),), stem=Stem("conv", out_channels=5), norm="layer"),
        r"stem under layer norm: out_channels: expected an even number",
    ),
    (
        lambda: Genome(SHAPE, 2, (layer(),), head=Head("r2r"), norm="instance"),
        r"head: kind: .* under norm 'instance', got 'r2r'",
    ),
    (lambda: Genome(SHAPE, 2, (layer(),), activation="elu"), r"activation: expected one of .*, got 'elu'"),  # type: ignore[arg-type]
    (lambda: Genome(SHAPE, 2, (layer(),), norm="group"), r"norm: expected one of .*, got 'group'"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_genome_is_refused_with_its_place(make: Callable[[], object], message: str) -> None:
    with pytest.raises(GenomeError, match=message):
        make()


def test_the_helpers_of_these_tests_make_right_genomes() -> None:
    assert Genome(SHAPE, 2, (layer(), Pool(), layer(block("b")))).features_shape == (6, 4, 4)
