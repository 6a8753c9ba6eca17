"""What a transform adds when it is told nothing more, and what a composition passes on."""

import numpy as np
import pytest

from graftwork.errors import GenomeError
from graftwork.evolution.transforms import Growth, R2RDeepen, R2RWiden, RandomPadding, Transform, compose, even
from graftwork.networks.genome import Block, Genome, Head, Layer, Pool, num_parameters
from graftwork.typing import BlockId

HEAD = Head("linear", hidden_features=0, pooling="avg")


def _layer(name: str, width: int) -> Layer:
    return Layer(width, (Block(BlockId(name), 3, 2, 0, width),))


GENOME = Genome((3, 8, 8), 3, (_layer("a", 5), Pool(), _layer("b", 9)), head=HEAD)


def grow(transform: Transform) -> Growth:
    return transform(GENOME, rng=np.random.default_rng(0))


def added(growth: Growth) -> list[tuple[int, int, int, int]]:
    """Kernel size, hidden channels and range of each new block, in forward order."""
    new = [block for block in growth.child.blocks() if block.id in growth.new_blocks]
    return [(block.kernel_size, block.hidden_channels, block.start, block.stop) for block in new]


def test_even_is_the_smallest_even_number_from_two_on_that_is_not_below() -> None:
    assert [even(width) for width in (0.1, 1, 2, 2.1, 3, 4, 5, 6.5, 9)] == [2, 2, 2, 4, 4, 4, 6, 8, 10]


def test_a_block_has_as_many_hidden_channels_as_it_writes_rounded_up_to_even() -> None:
    assert added(grow(R2RWiden(0))) == [(3, 6, 0, 5)]
    assert added(grow(R2RWiden(2, 5, channels=(4, 9)))) == [(5, 6, 4, 9)]
    assert added(grow(R2RWiden(2, 1, channels=(8, 9)))) == [(1, 2, 8, 9)]
    assert added(grow(R2RWiden(2, 1, hidden_channels=4))) == [(1, 4, 0, 9)]


@pytest.mark.parametrize(("position", "width"), [(0, 3), (1, 5), (2, 5), (3, 9)])
def test_a_new_layer_is_as_wide_as_its_input_with_a_block_for_each_kernel_size(position: int, width: int) -> None:
    growth = grow(R2RDeepen(position, (5, 1)))
    assert added(growth) == [(5, even(width), 0, width), (1, even(width), 0, width)]
    layer = growth.child.body[position]
    assert isinstance(layer, Layer)
    assert layer.out_channels == width
    assert growth.child.body[:position] + growth.child.body[position + 1 :] == GENOME.body
    assert added(grow(R2RDeepen(position, (3,), 8))) == [(3, 8, 0, width)]


def test_a_composition_passes_on_how_its_blocks_begin() -> None:
    noisy = grow(compose(R2RWiden(0, noise=0.3), R2RDeepen(1, noise=0.3)))
    assert (noisy.noise, noisy.initialisation, len(noisy.new_blocks)) == (0.3, "twin", 2)
    random = grow(compose(RandomPadding(R2RWiden(0)), RandomPadding(R2RDeepen(1))))
    assert (random.initialisation, random.preserves) == ("random", False)
    for other in (R2RDeepen(1), RandomPadding(R2RDeepen(1, noise=0.3)), R2RDeepen(1, noise=0.2)):
        with pytest.raises(GenomeError, match="alike"):
            grow(compose(R2RWiden(0, noise=0.3), other))


def test_the_shared_fraction_of_a_composition_counts_all_that_is_new() -> None:
    growth = grow(compose(R2RWiden(2, 5), R2RDeepen(3, (1, 3)), R2RWiden(0, 3)))
    assert growth.shared_fraction == num_parameters(GENOME) / num_parameters(growth.child)
