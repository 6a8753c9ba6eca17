"""Laws 1, 2, 3 and 8 over random genomes: growth preserves the function, never touches the parent, and learns."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from graftwork.evolution import Population
from graftwork.evolution.transforms import R2RDeepen, R2RWiden, RandomPadding, Transform, compose, output_gap
from graftwork.networks import Member, bind
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.genome import Genome, Layer
from graftwork.training import BankOptimizer, Rule
from graftwork.training._rules import same_rule
from graftwork.typing import KERNEL_SIZES
from tests.strategies import genomes, random_images, scramble, seeds

EXAMPLES = 60
FUSED_BOUND = {torch.float64: 1e-11, torch.float32: 2e-3}
"""Of the gap in fused form. Rounding of the cancelled terms is amplified by the norms behind them, most by instance
norms of near-constant maps, so the bound in float32 is far above the 1e-6 that is usual."""


@st.composite
def transforms(draw: st.DrawFn, genome: Genome) -> Transform:
    """One transform, sum or concat, any depth, or two or three of them composed."""
    steps: list[Transform] = []
    for _ in range(draw(st.integers(1, 3))):
        kernels = draw(st.lists(st.sampled_from(KERNEL_SIZES), min_size=1, max_size=2))
        hidden = draw(st.sampled_from([None, 2, 4]))
        if draw(st.booleans()):
            steps.append(R2RDeepen(draw(st.integers(0, len(genome.body))), tuple(kernels), hidden))
        else:
            # positions of layers may have moved by an earlier deepening: take the first layer at or behind a position
            steps.append(_WidenSome(draw(st.integers(0, 8)), kernels[0], hidden, draw(st.booleans())))
    return steps[0] if len(steps) == 1 else compose(*steps)


class _WidenSome:
    def __init__(self, number: int, kernel: int, hidden: int | None, concat: bool) -> None:
        self.number, self.kernel, self.hidden, self.concat = number, kernel, hidden, concat

    def __call__(self, genome: Genome, *, rng: np.random.Generator) -> object:
        places = [index for index, item in enumerate(genome.body) if isinstance(item, Layer)]
        position = places[self.number % len(places)]
        width = genome.body[position].out_channels
        channels = (width // 2, width) if self.concat and width > 1 else None
        return R2RWiden(position, self.kernel, self.hidden, channels)(genome, rng=rng)


@st.composite
def families(draw: st.DrawFn) -> tuple[Population, Member, Member, torch.Tensor, torch.Generator]:
    """A scrambled parent, its child, and images; float32 or float64, fused or reference, training or evaluation."""
    genome = draw(genomes())
    generator = torch.Generator().manual_seed(draw(seeds))
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    population = Population(form=draw(st.sampled_from(["fused", "reference"])))
    parent = population.add_seed(genome, generator=generator, images=random_images(genome, 16, generator))
    scramble(population.bank, population, generator)
    growth = draw(transforms(genome))(genome, rng=np.random.default_rng(draw(seeds)))
    child = population.graft(parent, growth, generator=generator)
    population.bank.to(dtype=dtype)
    training = draw(st.booleans())
    for member in population:
        member.to(dtype).train(training)
    return population, population[parent], population[child], random_images(genome, 6, generator).to(dtype), generator


@settings(max_examples=EXAMPLES)
@given(families())
def test_growth_preserves_the_function(
    family: tuple[Population, Member, Member, torch.Tensor, torch.Generator],
) -> None:
    _, parent, child, x, _ = family
    gap = output_gap(parent, child, x)
    if parent.form == "reference":
        assert gap == 0
    else:
        assert gap <= FUSED_BOUND[x.dtype]


@settings(max_examples=EXAMPLES)
@given(genomes(), seeds, st.data())
def test_growth_leaves_parent_outputs_and_optimizer_bit_identical(
    genome: Genome, seed: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    population = Population()
    parent_id = population.add_seed(genome, generator=generator, images=random_images(genome, 16, generator))
    scramble(population.bank, population, generator)
    parent = population[parent_id]
    optimizer = BankOptimizer(population.bank, same_rule(Rule("adam", 1e-3)))
    x = random_images(genome, 6, generator)
    _step(parent, optimizer, x, generator)
    before = _everything(population, parent, optimizer, x)
    growth = data.draw(transforms(genome))(genome, rng=np.random.default_rng(seed))
    population.graft(parent_id, growth, generator=generator)
    optimizer.sync()
    after = _everything(population, parent, optimizer, x)
    assert len(before) > 4
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert set(growth.new_blocks) <= set(population.bank)


def _everything(
    population: Population, parent: Member, optimizer: BankOptimizer, x: torch.Tensor
) -> dict[str, torch.Tensor]:
    outputs = {f"output {mode}": parent.train(mode)(x).detach() for mode in (True, False)}
    weights = {f"weight {key}": value.clone() for key, value in population.bank.state().items()}
    moments = {f"moment {key}": value.clone() for key, value in optimizer.state()[0].items()}
    return outputs | weights | moments


def _step(member: Member, optimizer: BankOptimizer, x: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
    optimizer.zero_grad()
    labels = torch.randint(0, member.genome.num_classes, (len(x),), generator=generator)
    F.cross_entropy(member.train()(x), labels).backward()
    largest = {key: float(p.grad.abs().max()) for key, p in member.parameters_by_key().items() if p.grad is not None}
    optimizer.step()
    return largest


@settings(max_examples=EXAMPLES)
@given(genomes(), seeds, st.data())
def test_every_new_tensor_with_a_gradient_moves_and_twins_separate(
    genome: Genome, seed: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    population = Population()
    parent = population.add_seed(genome, generator=generator, images=random_images(genome, 16, generator))
    scramble(population.bank, population, generator)
    growth = data.draw(transforms(genome))(genome, rng=np.random.default_rng(seed))
    child = population[population.graft(parent, growth, generator=generator)]
    before = {key: value.clone() for key, value in population.bank.state().items()}
    optimizer = BankOptimizer(population.bank, same_rule(Rule("adam", 1e-2)))
    gradients: dict[str, float] = {}
    for _ in range(3):
        found = _step(child, optimizer, random_images(genome, 8, generator), generator)
        gradients = {key: max(value, gradients.get(key, 0.0)) for key, value in found.items()}
    new = set(growth.new_blocks)
    keys = [key for key in before if key.split("/")[0] in new]
    moved = [key for key in keys if not torch.equal(before[key], population.bank.state()[key])]
    pulled = [key for key in keys if gradients.get(key, 0.0) > 0]
    assert keys
    assert set(pulled) <= set(moved)
    for block_id in new:
        filters = population.bank[block_id]["filter"]
        first, second = filters.chunk(2)
        if gradients.get(f"{block_id}/filter", 0.0) > 1e-6:
            assert not torch.equal(first, second)


def test_new_tensors_of_ordinary_networks_all_get_gradients() -> None:
    """Coverage of the law above: on the poster's own network nothing but a bias before a norm may stand still."""
    from graftwork.networks.genome import seed_genome

    genome = seed_genome("poster", (3, 16, 16), 4)
    generator = torch.Generator().manual_seed(0)
    population = Population()
    parent = population.add_seed(genome, generator=generator)
    scramble(population.bank, population, generator)
    growth = compose(R2RWiden(0, 5), R2RDeepen(4, (1, 3)))(genome, rng=np.random.default_rng(0))
    child = population[population.graft(parent, growth, generator=generator)]
    optimizer = BankOptimizer(population.bank, same_rule(Rule("adam", 1e-3)))
    gradients = _step(child, optimizer, random_images(genome, 8, generator), generator)
    new = [key for key in gradients if key.split("/")[0] in growth.new_blocks]
    assert len(new) == 3 * 5
    assert min(gradients[key] for key in new) > 0


def test_halves_of_mixing_get_equal_gradients_and_halves_of_filters_opposite_ones() -> None:
    from graftwork.networks.genome import seed_genome

    genome = seed_genome("poster", (3, 16, 16), 4)
    generator = torch.Generator().manual_seed(0)
    population = Population(form="reference")
    parent = population.add_seed(genome, generator=generator)
    scramble(population.bank, population, generator)
    growth = R2RWiden(2, 3)(genome, rng=np.random.default_rng(0))
    child = population[population.graft(parent, growth, generator=generator)]
    population.bank.to(dtype=torch.float64)
    x = random_images(genome, 8, generator).double()
    F.cross_entropy(child.double().train()(x), torch.arange(8) % 4).backward()
    entry = population.bank[growth.new_blocks[0]]
    first, second = entry["mixing"].grad.chunk(2, dim=1)
    torch.testing.assert_close(first, second)
    first, second = entry["filter"].grad.chunk(2)
    torch.testing.assert_close(first, -second)


@settings(max_examples=50)
@given(genomes(norms=["batch", "none"]), seeds, st.data())
def test_random_padding_does_not_preserve_the_function(genome: Genome, seed: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    population = Population(form="reference")
    parent = population.add_seed(genome, generator=generator, images=random_images(genome, 16, generator))
    scramble(population.bank, population, generator)
    growth = RandomPadding(data.draw(transforms(genome)))(genome, rng=np.random.default_rng(seed))
    assert not growth.preserves
    child = population.graft(parent, growth, generator=generator)
    x = random_images(genome, 6, generator)
    settings_ = population[child].settings("train")
    assert settings_.form == "reference"
    outputs = [population[member].train()(x) for member in (parent, child)]
    if not _blocked(population[child], x):
        assert not torch.allclose(*outputs, rtol=1e-6, atol=0)


def _blocked(member: Member, x: torch.Tensor) -> bool:
    """Whether the head's own units are all dead, so that nothing before them can be seen at its output."""
    from graftwork.networks.execution import run_item, run_stem

    shifted = []
    for delta in (0.0, 1.0):
        setting = member.settings("train")
        y = run_stem(member.genome.stem, x, member.weights, setting)
        for item in member.genome.body:
            y = run_item(item, y, member.weights, setting)
        from graftwork.networks.execution import run_head

        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        shifted.append(run_head(member.genome, y + delta * noise, member.weights, setting))
    return torch.allclose(*shifted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_symmetry_breaking_noise_separates_the_twins_at_once(noise: float) -> None:
    from graftwork.networks.genome import seed_genome

    genome = seed_genome("poster", (1, 8, 8), 3)
    bank = BlockBank()
    grow_bank(bank, genome, generator=torch.Generator().manual_seed(0))
    growth = R2RWiden(0, 3, noise=noise)(genome, rng=np.random.default_rng(0))
    growth.graft(bank, generator=torch.Generator().manual_seed(1))
    first, second = bank[growth.new_blocks[0]]["filter"].chunk(2)
    assert torch.equal(first, second) == (noise == 0) == growth.preserves
    assert bind(growth.child, bank)
