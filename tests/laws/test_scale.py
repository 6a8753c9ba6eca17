"""New weights take the scale of the trained ones beside them, whatever that is; with none beside them, that of He.

Scales are compared as gains, rms · √(fan-in), which do not depend on the size of a block: √2 is He's.
"""

from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

from graftwork.evolution import Population
from graftwork.evolution.transforms import R2RDeepen, R2RWiden, Transform
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.genome import Block, Genome, Head, Layer, Pool, Stem
from graftwork.numerics import twin_rows
from graftwork.typing import BlockId, MemberId
from tests.strategies import random_images, scramble


def _block(name: str, kernel_size: int, hidden: int, stop: int, start: int = 0) -> Block:
    return Block(BlockId(name), kernel_size, hidden, start, stop)


# Positions 0, 2 and 3 are layers; widths and kernels differ, so that a fan-in of another block is a wrong one.
GENOME = Genome(
    (6, 12, 12),
    3,
    (
        Layer(10, (_block("a3", 3, 16, 10), _block("a1", 1, 4, 4))),
        Pool(),
        Layer(12, (_block("b5", 5, 8, 12),)),
        Layer(20, (_block("c3", 3, 12, 20), _block("c3too", 3, 6, 20, 12))),
    ),
    head=Head("linear", hidden_features=0, pooling="avg"),
)
FACTORS = {"a3": (9, 0.2), "a1": (0.1, 4), "b5": (0.03, 20), "c3": (5, 0.1), "c3too": (0.5, 0.4)}
"""On the filter and on the mixing filter of each block: what training might have made of them."""

HIDDEN = 96


def gain(tensor: Tensor) -> float:
    """Root mean square times √(fan-in) of a filter [out, in, k, k], a mixing filter or a linear map."""
    return float(tensor.detach().double().square().mean()) ** 0.5 * sqrt(tensor[0].numel())


def is_uniform(drawn: Tensor, expected_gain: float) -> bool:
    """Whether independent weights have this gain and the edges of U(−√3 s, √3 s).

    The measured standard deviation of n uniform numbers is off by √(0.2/n) on average; six times as much is allowed.
    """
    std = expected_gain / sqrt(drawn[0].numel())
    fits = abs(gain(drawn) / expected_gain - 1) <= 6 * sqrt(0.2 / drawn.numel())
    return fits and 0.95 * sqrt(3) * std <= float(drawn.detach().abs().max()) <= 1.000001 * sqrt(3) * std


def trained(seed: int = 0) -> tuple[Population, MemberId]:
    """A scrambled network whose blocks have scales far from He's, each another."""
    generator, population = torch.Generator().manual_seed(seed), Population()
    member = population.add_seed(GENOME, generator=generator)
    scramble(population.bank, population, generator)
    with torch.no_grad():
        for name, (of_filter, of_mixing) in FACTORS.items():
            population.bank[BlockId(name)]["filter"].mul_(of_filter)
            population.bank[BlockId(name)]["mixing"].mul_(of_mixing)
    return population, member


def grafted(population: Population, parent: MemberId, transform: Transform) -> list[dict[str, Tensor]]:
    """The first halves, which are drawn, of the filters and mixing filters of new blocks, in forward order."""
    growth = transform(population[parent].genome, rng=np.random.default_rng(1))
    population.graft(parent, growth, generator=torch.Generator().manual_seed(2))
    entries = [population.bank[block_id] for block_id in growth.new_blocks]
    halves = [
        {"filter": entry["filter"].chunk(2)[0], "mixing": entry["mixing"].chunk(2, dim=1)[0]} for entry in entries
    ]
    for entry, half in zip(entries, halves, strict=True):
        assert torch.equal(entry["filter"], twin_rows(half["filter"]))
    return halves


def assert_matched(population: Population, new: dict[str, Tensor], neighbours: list[str]) -> None:
    for name, drawn in new.items():
        wanted = float(np.mean([gain(population.bank[BlockId(one)][name]) for one in neighbours]))
        assert not 0.7 < wanted / (sqrt(2) if name == "filter" else 1) < 1.4  # or He's own scale would do as well
        # half of the columns of a mixing filter are drawn, but its block sums over all of them
        assert is_uniform(drawn, wanted / (sqrt(2) if name == "mixing" else 1))


@pytest.mark.parametrize(
    ("position", "kernel_size", "neighbours"),
    [
        (0, 3, ["a3"]),  # of several, those of the same kernel size
        (0, 1, ["a1"]),
        (0, 5, ["a3", "a1"]),  # none has it: all of them
        (2, 5, ["b5"]),
        (2, 1, ["b5"]),  # another fan-in
        (3, 3, ["c3", "c3too"]),
    ],
)
def test_a_widened_layer_gets_weights_of_the_scale_of_its_own_blocks(
    position: int, kernel_size: int, neighbours: list[str]
) -> None:
    population, parent = trained()
    (new,) = grafted(population, parent, R2RWiden(position, kernel_size, HIDDEN))
    assert_matched(population, new, neighbours)


@pytest.mark.parametrize(
    ("position", "kernel_sizes", "neighbours"),
    [
        (0, (3,), [["a3"]]),
        (1, (3,), [["a3"]]),  # the layer just before is nearer than the one behind the pool
        (2, (3,), [["b5"]]),  # behind the pool it is the other way round
        (3, (5,), [["b5"]]),  # between two layers: the earlier one
        (4, (3,), [["c3", "c3too"]]),
        (1, (5, 1), [["a3", "a1"], ["a1"]]),  # trained neighbours only: never the other new block
    ],
)
def test_a_new_layer_gets_weights_of_the_scale_of_the_nearest_layer(
    position: int, kernel_sizes: tuple[int, ...], neighbours: list[list[str]]
) -> None:
    population, parent = trained()
    news = grafted(population, parent, R2RDeepen(position, kernel_sizes, HIDDEN))
    assert len(news) == len(neighbours)
    for new, beside in zip(news, neighbours, strict=True):
        assert_matched(population, new, beside)


def test_with_nothing_trained_beside_them_weights_have_the_scale_of_he() -> None:
    """√2 before an activation, 1 before the sum of a layer and for logits; also where matching is switched off."""
    wide = Layer(24, (_block("wide", 3, HIDDEN, 24),))
    genome = Genome((6, 8, 8), 40, (wide,), stem=Stem("conv", out_channels=24), head=Head("mlp", hidden_features=256))
    bank = BlockBank()
    grow_bank(bank, genome, generator=torch.Generator().manual_seed(0))
    assert is_uniform(bank[genome.stem.id]["filter"], sqrt(2))
    assert is_uniform(bank[genome.head.id]["hidden"], sqrt(2))
    assert is_uniform(bank[genome.head.id]["weight"], 1)
    assert is_uniform(bank[BlockId("wide")]["filter"].chunk(2)[0], sqrt(2))
    assert is_uniform(bank[BlockId("wide")]["mixing"].chunk(2, dim=1)[0], sqrt(1 / 2))
    population, parent = trained()
    child = R2RWiden(0, 3, HIDDEN)(population[parent].genome, rng=np.random.default_rng(0)).child
    (new,) = grow_bank(population.bank, child, generator=torch.Generator().manual_seed(0), match_scale=False)
    assert is_uniform(population.bank[new]["filter"].chunk(2)[0], sqrt(2))


def test_weights_that_training_has_set_to_zero_are_no_scale_to_match() -> None:
    population, parent = trained()
    with torch.no_grad():
        population.bank[BlockId("b5")]["filter"].zero_()
    (new,) = grafted(population, parent, R2RWiden(2, 3, HIDDEN))
    assert is_uniform(new["filter"], sqrt(2))


@pytest.mark.parametrize("noise", [0.1, 0.7])
def test_symmetry_breaking_noise_is_relative_to_the_new_weights(noise: float) -> None:
    """On trained weights of any scale; it falls on the second half alone."""
    for position in (0, 2):
        population, parent = trained()
        growth = R2RWiden(position, 3, HIDDEN, noise=noise)(population[parent].genome, rng=np.random.default_rng(0))
        population.graft(parent, growth, generator=torch.Generator().manual_seed(0))
        first, second = population.bank[growth.new_blocks[0]]["filter"].chunk(2)
        assert gain(second - first) == pytest.approx(noise * gain(first), rel=0.05)


def test_a_new_whitening_stem_is_fixed_and_a_convolution_is_trained() -> None:
    for kind in ("whiten", "conv"):
        genome = GENOME.replace(stem=Stem(kind, out_channels=8))
        bank, generator = BlockBank(), torch.Generator().manual_seed(0)
        grow_bank(bank, genome, generator=generator, images=random_images(genome, 16, generator))
        fixed = {key for key, parameter, _ in bank.parameters() if not parameter.requires_grad}
        assert fixed == ({"stem/filter"} if kind == "whiten" else set())
