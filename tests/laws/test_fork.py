"""Forks over random genomes: the same function to the bit, the parent untouched, and then each by itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from graftwork.errors import GenomeError
from graftwork.execution import shared_flops, walk
from graftwork.genome import Genome, flops_per_item, num_parameters, parameters_per_entry, seed_genome
from graftwork.member import Member, recalibrate
from graftwork.mutation import part
from graftwork.population import Population
from graftwork.training import BankOptimizer
from graftwork.transforms import Fork, R2RWiden, compose
from graftwork.typing import MemberId
from tests.strategies import genomes, random_images, scramble, seeds
from tests.training.small import RULES

layers = st.integers(0, 5)
rules = st.sampled_from(sorted(RULES))


def parent_of(genome: Genome, seed: int, form: str = "fused") -> tuple[Population, MemberId, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    population = Population(form=form)  # type: ignore[arg-type]
    parent = population.add_seed(genome, generator=generator, images=random_images(genome, 16, generator))
    scramble(population.bank, population, generator)
    return population, parent, generator


def step(member: Member, optimizer: BankOptimizer, x: torch.Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(member.train()(x), torch.arange(len(x)) % member.genome.num_classes).backward()
    optimizer.step()


def everything(population: Population, optimizer: BankOptimizer) -> dict[str, torch.Tensor]:
    slots, _ = optimizer.state()
    return {key: value.clone() for key, value in {**population.bank.state(), **slots}.items()}


@settings(max_examples=150)
@given(genomes(), seeds, layers, st.sampled_from(["fused", "reference"]))
def test_a_fork_is_the_same_function_to_the_bit_in_both_modes(genome: Genome, seed: int, layer: int, form: str) -> None:
    population, parent, generator = parent_of(genome, seed, form)
    growth = Fork(layer)(genome, rng=np.random.default_rng(seed))
    child = population.graft(parent, growth, generator=generator)
    x = random_images(genome, 6, generator)
    assert growth.preserves
    assert len(growth.copies) > 0
    for training in (True, False):
        outputs = [population[member].train(training)(x) for member in (parent, child)]
        assert torch.equal(*outputs)


@settings(max_examples=100)
@given(genomes(), seeds, layers, rules)
def test_forking_leaves_the_parent_bit_identical_and_copies_have_its_moments(
    genome: Genome, seed: int, layer: int, rule: str
) -> None:
    population, parent, generator = parent_of(genome, seed)
    optimizer = BankOptimizer(population.bank, RULES[rule])
    x = random_images(genome, 6, generator)
    step(population[parent], optimizer, x)
    before, output = everything(population, optimizer), population[parent](x).detach()
    growth = Fork(layer)(genome, rng=np.random.default_rng(seed))
    population.graft(parent, growth, generator=generator)
    optimizer.sync()
    for copy, source in growth.copies.items():
        optimizer.copy_state(source, copy)
    after = everything(population, optimizer)
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert torch.equal(population[parent](x), output)
    copied = {key.split("/")[0] for key in after} - {key.split("/")[0] for key in before}
    assert copied == set(growth.copies)
    for key, value in after.items():
        block_id, rest = key.split("/", 1)
        if block_id in growth.copies:
            assert torch.equal(value, before[f"{growth.copies[block_id]}/{rest}"])


@settings(max_examples=100)
@given(genomes(), seeds, layers, rules)
def test_a_step_of_a_fork_has_the_bits_that_the_parents_would_have_had_and_moves_only_what_it_binds(
    genome: Genome, seed: int, layer: int, rule: str
) -> None:
    found: list[list[torch.Tensor]] = []
    for forked in (False, True):
        population, parent, generator = parent_of(genome, seed)
        optimizer = BankOptimizer(population.bank, RULES[rule])
        images = [random_images(genome, 6, generator) for _ in range(2)]
        step(population[parent], optimizer, images[0])
        lines = (parent, parent)
        if forked:
            parting = part(population, [parent], 2, fork=Fork(layer), rng=np.random.default_rng(seed))
            optimizer.sync()
            for copy, source in parting.copies.items():
                optimizer.copy_state(source, copy)
            lines = (parting.lines[0], parting.lines[1])
        before = everything(population, optimizer)
        member = population[lines[0]]
        step(member, optimizer, images[1])
        found.append([value.detach() for value in member.parameters_by_key().values()])
        moved = {k.split("/")[0] for k, v in everything(population, optimizer).items() if not torch.equal(v, before[k])}
        assert moved
        assert moved <= set(member.genome.ids)
        if forked:
            private = set(population[lines[1]].genome.ids) - set(member.genome.ids)
            assert genome.head.id in {parting.copies[block_id] for block_id in private}
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@settings(max_examples=60)
@given(genomes(), seeds, layers)
def test_lines_share_the_trunk_and_nothing_else_and_a_walk_runs_it_once(genome: Genome, seed: int, layer: int) -> None:
    population, parent, generator = parent_of(genome, seed)
    lines = part(population, [parent], 3, fork=Fork(layer), rng=np.random.default_rng(seed)).lines
    population.keep(lines)
    scramble(population.bank, [], generator)
    members = list(population)
    trunk = set(genome.ids) & set(members[0].genome.ids)
    ids = [set(member.genome.ids) for member in members]
    assert all(a & b == trunk for a in ids for b in ids if a is not b)
    private = genome.layers[layer:]
    assert trunk == set(genome.ids) - {block.id for item in private for block in item.blocks} - {genome.head.id}
    first = next((n for n, item in enumerate(genome.body) if item in private), len(genome.body))
    costs = flops_per_item(genome)
    assert shared_flops(population.genomes) == sum(costs[: first + 1]) + 3 * sum(costs[first + 1 :])
    x = random_images(genome, 6, generator)
    recalibrate(members, x)
    for index, logits in walk(members, x, "evaluate"):
        assert torch.equal(logits, members[index].eval()(x))


def test_a_fork_that_begins_anew_does_not_preserve_the_function() -> None:
    genome = seed_genome("poster", (3, 16, 16), 4)
    population, parent, generator = parent_of(genome, 0)
    growth = Fork(1, "random")(genome, rng=np.random.default_rng(0))
    child = population.graft(parent, growth, generator=generator)
    x = random_images(genome, 6, generator)
    assert not growth.preserves
    assert not growth.copies
    assert not torch.allclose(population[parent](x), population[child](x))


def test_forks_of_several_parents_are_made_in_turn() -> None:
    genome = seed_genome("poster", (3, 16, 16), 4)
    population, parent, generator = parent_of(genome, 0)
    growth = R2RWiden(0)(genome, rng=np.random.default_rng(0))
    other = population.graft(parent, growth, generator=generator)
    lines = part(population, [parent, other], 3, fork=Fork(2), rng=np.random.default_rng(1), generation=4).lines
    assert [population.birth(line).parent for line in lines] == [parent, other, parent]
    assert {population.birth(line).generation for line in lines} == {4}
    assert len({population.birth(line).genome.head.id for line in lines}) == 3
    assert population.ancestor_among(lines[1], [parent, other]) == other
    assert population.ancestor_among(lines[0], [other]) is None


def test_a_fork_shares_with_its_parent_what_it_has_no_copy_of() -> None:
    genome = seed_genome("poster", (3, 16, 16), 4)
    growth = Fork(1)(genome, rng=np.random.default_rng(0))
    first = genome.layers[0].blocks[0].id
    assert growth.shared_fraction == parameters_per_entry(genome)[first] / num_parameters(genome)
    assert "fork from layer 1" in growth.transform
    assert "head" in Fork(9)(genome, rng=np.random.default_rng(0)).transform
    assert set(growth.new_blocks) == set(growth.copies)


def test_what_can_not_be_forked_is_refused() -> None:
    genome = seed_genome("poster", (3, 16, 16), 4)
    with pytest.raises(GenomeError, match=">= 0"):
        Fork(-1)
    with pytest.raises(GenomeError, match="can't be composed"):
        compose(R2RWiden(0), Fork())(genome, rng=np.random.default_rng(0))
