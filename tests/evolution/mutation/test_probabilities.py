"""What a mutation draws follows its options, not its defaults: every cell within exact binomial bounds."""

from collections import Counter
from collections.abc import Callable, Iterable
from math import ceil
from typing import Any

import numpy as np
import pytest
import scipy.stats

from graftwork.evolution.mutation import R2RMutation
from graftwork.evolution.transforms import R2RDeepen, R2RWiden
from graftwork.networks.genome import Block, Genome, Head, Layer, Pool
from graftwork.session import SearchConfig
from graftwork.session._growth import mutation_of
from graftwork.typing import KERNEL_SIZES, BlockId

Drawn = R2RWiden | R2RDeepen
Probabilities = tuple[float, float, float]

DRAWS = 1000
CHANCE = 1e-9
"""Probability that a right mutation leaves the bounds of one count."""


def _layer(name: str, width: int) -> Layer:
    return Layer(width, (Block(BlockId(name), 3, 2, 0, width),))


# Layers at 0, 2 and 3, of odd and even widths.
GENOME = Genome(
    (3, 8, 8),
    3,
    (_layer("a", 5), Pool(), _layer("b", 8), _layer("c", 13)),
    head=Head("linear", hidden_features=0, pooling="avg"),
)


def from_options(**options: Any) -> R2RMutation:
    return R2RMutation(**options)


def from_config(**options: Any) -> R2RMutation:
    """By way of the config of a search, whose recipe has these options."""
    return mutation_of(SearchConfig.from_dict({"recipe": "paper", **options}))


every_way = pytest.mark.parametrize("make", [from_options, from_config])


def drawn(mutate: R2RMutation, seed: int = 0) -> list[Drawn]:
    rng = np.random.default_rng(seed)
    found = [mutate.draw(GENOME, rng=rng) for _ in range(DRAWS)]
    return [transform for transform in found if isinstance(transform, R2RWiden | R2RDeepen)]


def kernel_size(transform: Drawn) -> int:
    if isinstance(transform, R2RWiden):
        return transform.kernel_size
    (size,) = transform.kernel_sizes
    return size


def assert_shares(found: Iterable[object], shares: dict[Any, float]) -> None:
    """Each value comes as often as its share says, and no other value comes at all."""
    counts = Counter(found)
    total = counts.total()
    assert total > 100
    assert set(counts) <= set(shares)
    for value, share in shares.items():
        low, high = scipy.stats.binom.interval(1 - CHANCE, total, share)
        assert low <= counts[value] <= high, f"{value}: {counts[value]} of {total}, expected {low:g} to {high:g}"


@every_way
@pytest.mark.parametrize("deepen", [0.0, 0.17, 1.0])
@pytest.mark.parametrize("kernels", [(0.1, 0.2, 0.7), (0.0, 0.85, 0.15), (1.0, 0.0, 0.0)])
def test_growth_and_kernel_sizes_are_drawn_as_often_as_asked_and_apart_from_one_another(
    make: Callable[..., R2RMutation], deepen: float, kernels: Probabilities
) -> None:
    found = drawn(make(deepen_probability=deepen, kernel_probabilities=kernels))
    assert len(found) == DRAWS
    kinds = {R2RDeepen: deepen, R2RWiden: 1 - deepen}
    cells = {(kind, size): p * q for kind, p in kinds.items() for size, q in zip(KERNEL_SIZES, kernels, strict=True)}
    assert_shares([(type(transform), kernel_size(transform)) for transform in found], cells)


def test_every_layer_is_widened_and_every_place_deepened_equally_often() -> None:
    found = drawn(R2RMutation(deepen_probability=0.6))
    widened = [transform.position for transform in found if isinstance(transform, R2RWiden)]
    deepened = [transform.position for transform in found if isinstance(transform, R2RDeepen)]
    assert_shares(widened, dict.fromkeys((0, 2, 3), 1 / 3))
    assert_shares(deepened, dict.fromkeys((1, 2, 3, 4), 1 / 4))  # behind each layer and the pool, the last one too


@every_way
@pytest.mark.parametrize("concat", [0.0, 0.23, 1.0])
def test_blocks_write_half_of_a_layer_as_often_as_asked_either_half_alike(
    make: Callable[..., R2RMutation], concat: float
) -> None:
    found = drawn(make(deepen_probability=0.1, concat_probability=concat))
    for position, width in ((0, 5), (2, 8), (3, 13)):
        ranges = [t.channels for t in found if isinstance(t, R2RWiden) and t.position == position]
        half = width // 2
        assert_shares(ranges, {None: 1 - concat, (0, half): concat / 2, (half, width): concat / 2})


@every_way
@pytest.mark.parametrize("multiple", [0.3, 1.0, 2.5])
def test_hidden_channels_are_the_multiple_of_what_a_block_writes_rounded_up_to_even(
    make: Callable[..., R2RMutation], multiple: float
) -> None:
    mutate = make(hidden_multiple=multiple, concat_probability=0.5)
    rng, seen = np.random.default_rng(0), set()
    for transform in drawn(mutate)[:200]:
        growth = transform(GENOME, rng=rng)
        (block,) = [block for block in growth.child.blocks() if block.id in growth.new_blocks]
        assert block.hidden_channels == 2 * max(1, ceil(multiple * block.out_channels / 2))
        seen.add((type(transform), block.out_channels))
    assert {(R2RDeepen, 5), (R2RDeepen, 13), (R2RWiden, 5), (R2RWiden, 13), (R2RWiden, 7)} <= seen
