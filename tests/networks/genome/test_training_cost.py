"""The analytic cost of training against a counted forward and backward pass.

Three forward passes count a gradient of the images, which nobody needs: the first convolutions have none. That is all
that they count too much, and for a whitening stem, whose filters are fixed, their gradient as well.
"""

import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from graftwork.networks import bind
from graftwork.networks.genome import SEEDS, Genome, Layer, seed_genome, stem_flops, training_flops
from tests.strategies import genomes, grown, random_images

TOLERANCE = 0.05
"""By how much of the counted cost the analytic one may be too high on the seed networks, for images of 3×32×32."""


def counted_update(genome: Genome, num_examples: int) -> int:
    """FLOPs of a forward and a backward pass as PyTorch counts them, in the reference form."""
    generator = torch.Generator().manual_seed(0)
    bank, _ = grown(genome, generator)
    member = bind(genome, bank, form="reference").train()
    images = random_images(genome, num_examples, generator)
    labels = torch.randint(0, genome.num_classes, (num_examples,), generator=generator)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(member(images), labels).backward()
    return int(counter.get_total_flops())


def never_made(genome: Genome) -> int:
    """FLOPs for one image of gradients that three forward passes count and no update makes."""
    if genome.stem.kind != "none":
        return stem_flops(genome) * (2 if genome.stem.kind == "whiten" else 1)
    first = next(step for step in genome.steps() if isinstance(step.item, Layer))
    assert isinstance(first.item, Layer)
    channels, height, width = first.in_shape
    taps = sum(block.hidden_channels * block.kernel_size**2 for block in first.item.blocks)
    return 2 * channels * height * width * taps


@settings(max_examples=10)
@given(genomes(max_layers=2, max_blocks=2))
def test_an_update_costs_three_forward_passes_but_for_the_gradient_of_the_images(genome: Genome) -> None:
    assert counted_update(genome, 3) == training_flops(genome, 3) - 3 * never_made(genome)
    assert 0 < never_made(genome) < training_flops(genome)


@pytest.mark.parametrize("name", SEEDS)
def test_the_analytic_cost_of_training_is_at_most_a_little_too_high(name: str) -> None:
    genome = seed_genome(name, (3, 32, 32), 10)
    assert 1 <= training_flops(genome, 2) / counted_update(genome, 2) <= 1 + TOLERANCE
