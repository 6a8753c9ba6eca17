"""Copies of blocks over random genomes: the same function to the bit, the source untouched, then each by itself."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from graftwork.networks import Member, bind, recalibrate
from graftwork.networks.execution import shared_flops, walk
from graftwork.networks.genome import Genome, flops_per_item
from graftwork.training import BankOptimizer
from tests.strategies import genomes, grown, random_images, scramble, seeds, with_own_top
from tests.training.small import RULES

layers = st.integers(0, 5)
rules = st.sampled_from(sorted(RULES))


def trained(genome: Genome, seed: int, rule: str) -> tuple[Member, BankOptimizer, list[torch.Tensor]]:
    """A scrambled network after one step, and batches of images: that of the step, and two more."""
    generator = torch.Generator().manual_seed(seed)
    bank, member = grown(genome, generator)
    scramble(bank, [member], generator)
    optimizer = BankOptimizer(bank, RULES[rule])
    images = [random_images(genome, 6, generator) for _ in range(3)]
    step(member, optimizer, images[0])
    return member, optimizer, images


def step(member: Member, optimizer: BankOptimizer, x: torch.Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(member.train()(x), torch.arange(len(x)) % member.genome.num_classes).backward()
    optimizer.step()


def copied(source: Member, optimizer: BankOptimizer, layer: int, suffix: str = "-copy") -> Member:
    """A member whose blocks from a layer on, and whose head, are copies."""
    genome, copies = with_own_top(source.genome, layer, suffix)
    for name, original in copies.items():
        optimizer.copy_block(original, name)
    return bind(genome, optimizer.bank)


def everything(optimizer: BankOptimizer) -> dict[str, torch.Tensor]:
    slots, _ = optimizer.state()
    return {key: value.clone() for key, value in {**optimizer.bank.state(), **slots}.items()}


@settings(max_examples=40)
@given(genomes(), seeds, layers)
def test_a_member_of_copies_is_the_same_function_to_the_bit_in_both_modes(
    genome: Genome, seed: int, layer: int
) -> None:
    source, optimizer, images = trained(genome, seed, "adam")
    members = [source, copied(source, optimizer, layer)]
    for training in (True, False):
        if not training:
            recalibrate(members, images[1])
        assert torch.equal(*(member.train(training)(images[2]) for member in members))


@settings(max_examples=40)
@given(genomes(), seeds, layers, rules)
def test_copying_leaves_the_source_bit_identical_and_copies_have_its_bits_and_moments(
    genome: Genome, seed: int, layer: int, rule: str
) -> None:
    source, optimizer, _ = trained(genome, seed, rule)
    before = everything(optimizer)
    copied(source, optimizer, layer)
    after = everything(optimizer)
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    new = {key for key in after if key not in before}
    sources = {key: key.replace("-copy", "", 1) for key in new}
    assert set(sources.values()) == {key for key in before if f"{key.split('/')[0]}-copy" in optimizer}
    assert f"{genome.head.id}-copy/weight" in new
    assert all(torch.equal(after[key], before[original]) for key, original in sources.items())


@settings(max_examples=40)
@given(genomes(), seeds, layers, rules)
def test_a_copy_takes_the_step_that_its_source_would_have_taken_and_moves_only_what_it_binds(
    genome: Genome, seed: int, layer: int, rule: str
) -> None:
    source, optimizer, images = trained(genome, seed, rule)
    step(source, optimizer, images[1])
    expected = [value.detach().clone() for value in source.parameters_by_key().values()]
    source, optimizer, images = trained(genome, seed, rule)
    member = copied(source, optimizer, layer)
    before = everything(optimizer)
    step(member, optimizer, images[1])
    found = member.parameters_by_key().values()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    after = everything(optimizer)
    moved = {key.split("/")[0] for key, value in before.items() if not torch.equal(value, after[key])}
    assert moved
    assert moved <= set(member.genome.ids)
    assert genome.head.id not in moved


@settings(max_examples=40)
@given(genomes(), seeds, layers)
def test_members_with_copies_of_their_own_share_the_rest_and_a_walk_runs_it_once(
    genome: Genome, seed: int, layer: int
) -> None:
    source, optimizer, images = trained(genome, seed, "adam")
    members = [copied(source, optimizer, layer, suffix) for suffix in ("-one", "-two", "-three")]
    scramble(optimizer.bank, [], torch.Generator().manual_seed(seed))
    ids = [set(member.genome.ids) for member in members]
    private = genome.layers[layer:]
    rest = set(genome.ids) - {block.id for item in private for block in item.blocks} - {genome.head.id}
    assert all(a & b == rest for a in ids for b in ids if a is not b)
    first = next((n for n, item in enumerate(genome.body) if item in private), len(genome.body))
    costs = flops_per_item(genome)
    together = shared_flops([member.genome for member in members])
    assert together == sum(costs[: first + 1]) + 3 * sum(costs[first + 1 :])
    recalibrate(members, images[1])
    for index, logits in walk(members, images[2], "evaluate"):
        assert torch.equal(logits, members[index].eval()(images[2]))
