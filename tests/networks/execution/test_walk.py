"""What members share on a walk, and what keeps them apart."""

import numpy as np
import pytest
import torch

from graftwork.evolution import Population
from graftwork.evolution.transforms import R2RWiden
from graftwork.networks import Member, bind, recalibrate
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.execution import shared_flops, walk
from graftwork.networks.genome import Genome, forward_flops, seed_genome
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


def parent_and_child() -> tuple[Member, Member]:
    population, generator = Population(), torch.Generator().manual_seed(0)
    parent_id = population.add_seed(GENOME, generator=generator)
    scramble(population.bank, population, generator)
    growth = R2RWiden(0)(GENOME, rng=np.random.default_rng(0))
    return population[parent_id], population[population.graft(parent_id, growth, generator=generator)]


def copies(member: Member) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {block_id: (mean.clone(), var.clone()) for block_id, (mean, var) in member.statistics.items()}


def assert_same_statistics(member: Member, expected: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    assert len(member.statistics) == len(expected) > 1
    for block_id, pair in member.statistics.items():
        assert all(torch.equal(mine, other) for mine, other in zip(pair, expected[block_id], strict=True))


def test_a_child_starts_with_its_parents_statistics_and_holds_no_copies_of_them() -> None:
    parent, child = parent_and_child()
    assert len(parent.statistics) > 1
    for block_id, pair in parent.statistics.items():
        assert all(mine is theirs for mine, theirs in zip(child.statistics[block_id], pair, strict=True))


def test_calibrating_a_child_leaves_its_parents_statistics_alone() -> None:
    parent, child = parent_and_child()
    before = copies(parent)
    recalibrate([child], random_images(GENOME, 8, torch.Generator().manual_seed(1)))
    assert_same_statistics(parent, before)
    block_id = next(GENOME.blocks()).id
    assert not torch.equal(child.statistics[block_id][0], parent.statistics[block_id][0])


def test_loading_a_state_dict_leaves_those_alone_who_share_statistics() -> None:
    parent, child = parent_and_child()
    before = copies(parent)
    loaded = {name: torch.full_like(value, 2.0) for name, value in child.state_dict().items()}
    child.load_state_dict(loaded)
    assert_same_statistics(parent, before)
    assert all((value == 2.0).all() for value in child.buffers())


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
