"""What members share on a walk, and what keeps them apart."""

import numpy as np
import pytest
import torch

from graftwork.bank import BlockBank, grow_bank
from graftwork.execution import shared_flops, walk
from graftwork.genome import Genome, forward_flops, seed_genome
from graftwork.member import Member, bind
from graftwork.population import Population
from graftwork.transforms import R2RWiden
from tests.strategies import random_images, scramble

GENOME = seed_genome("poster", (1, 8, 8), 3)


def members_of(*genomes: Genome) -> list[Member]:
    bank, generator = BlockBank(), torch.Generator().manual_seed(0)
    for genome in genomes:
        grow_bank(bank, genome, generator=generator)
    members = [bind(genome, bank) for genome in genomes]
    scramble(bank, members, generator)
    return [member.eval() for member in members]


def assert_walk_equals_each_alone(members: list[Member]) -> None:
    x = random_images(GENOME, 3, torch.Generator().manual_seed(1))
    with torch.no_grad():
        alone = [member(x) for member in members]
        for index, logits in walk(members, x, "evaluate"):
            assert torch.equal(logits, alone[index])
    assert not torch.equal(*alone)


def test_members_of_one_genome_with_different_statistics_share_nothing() -> None:
    assert_walk_equals_each_alone(members_of(GENOME, GENOME))


@pytest.mark.parametrize("change", [{"activation": "tanh"}, {"norm": "instance"}])
def test_members_that_differ_in_activation_or_norm_share_nothing(change: dict[str, str]) -> None:
    one, other = GENOME, GENOME.replace(**change)
    assert_walk_equals_each_alone(members_of(one, other))
    assert shared_flops([one, other]) == forward_flops(one) + forward_flops(other)


def test_a_child_starts_with_its_parents_statistics_as_tensors_of_its_own() -> None:
    population, generator = Population(), torch.Generator().manual_seed(0)
    parent_id = population.add_seed(GENOME, generator=generator)
    scramble(population.bank, population, generator)
    growth = R2RWiden(0)(GENOME, rng=np.random.default_rng(0))
    parent, child = population[parent_id], population[population.graft(parent_id, growth, generator=generator)]
    assert len(parent.statistics) > 1
    for block_id, pair in parent.statistics.items():
        for mine, theirs in zip(child.statistics[block_id], pair, strict=True):
            assert torch.equal(mine, theirs)
            assert mine.data_ptr() != theirs.data_ptr()


def test_a_new_block_takes_the_scale_of_the_trained_blocks_beside_it() -> None:
    bank, generator = BlockBank(), torch.Generator().manual_seed(0)
    grow_bank(bank, GENOME, generator=generator)
    growth = R2RWiden(0)(GENOME, rng=np.random.default_rng(0))
    beside = bank[next(GENOME.blocks()).id]
    with torch.no_grad():
        for name, factor in (("filter", 20.0), ("mixing", 0.05)):
            beside[name].mul_(factor)
    growth.graft(bank, generator=generator)
    entry = bank[growth.new_blocks[0]]
    for name in ("filter", "mixing"):
        scales = [float(tensor.detach().square().mean().sqrt()) for tensor in (entry[name], beside[name])]
        fan_in = [tensor[0].numel() for tensor in (entry[name], beside[name])]
        assert scales[0] * fan_in[0] ** 0.5 == pytest.approx(scales[1] * fan_in[1] ** 0.5, rel=0.35)
