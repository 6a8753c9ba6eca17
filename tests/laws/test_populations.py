"""Laws 5 and 6, and mistake 4 of the original, over random genomes and populations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from graftwork.errors import ConfigError, InputError
from graftwork.evolution import Population
from graftwork.evolution.mutation import R2RMutation
from graftwork.evolution.transforms import R2RWiden
from graftwork.networks import bind, recalibrate
from graftwork.networks.genome import Genome, num_parameters, seed_genome
from graftwork.numerics import output_gap
from tests.strategies import genomes, grown, random_images, scramble, seeds

BOUND = {torch.float64: 1e-9, torch.float32: 5e-3}


@settings(max_examples=60)
@given(genomes(), seeds, st.sampled_from([torch.float64, torch.float32]))
def test_fused_equals_unfused_in_outputs_gradients_and_statistics(
    genome: Genome, seed: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    bank, _ = grown(genome, generator)
    scramble(bank, [], generator)
    bank.to(dtype=dtype)
    x = random_images(genome, 6, generator).to(dtype)
    labels = torch.randint(0, genome.num_classes, (6,), generator=generator)
    outputs, gradients, statistics = [], [], []
    for form in ("fused", "reference"):
        member = bind(genome, bank, form=form).to(dtype)
        parameters = [p for p in member.parameters_by_key().values() if p.requires_grad]
        logits = member.train()(x)
        outputs.append(logits)
        gradients.append(torch.autograd.grad(F.cross_entropy(logits, labels), parameters, allow_unused=True))
        recalibrate([member], x)
        statistics.append([value for pair in member.statistics.values() for value in pair])
        outputs.append(member.eval()(x))
    assert output_gap(outputs[0], outputs[2], cancelled=1) <= BOUND[dtype]
    assert output_gap(outputs[1], outputs[3], cancelled=1) <= BOUND[dtype]
    for one, other in zip(*statistics, strict=True):
        assert output_gap(one, other, cancelled=1) <= BOUND[dtype]
    # a gradient is a sum over the batch of terms that may be larger than itself: compare on the scale of all gradients
    size = max(float(g.abs().max()) for g in gradients[0] if g is not None)
    assert len(gradients[0]) >= 4
    for one, other in zip(*gradients, strict=True):
        if one is not None and other is not None:
            assert output_gap(one, other, cancelled=max(size, 1)) <= 10 * BOUND[dtype]


def populated(genome: Genome, seed: int, size: int, **options: float) -> tuple[Population, R2RMutation]:
    population = Population()
    generator = torch.Generator().manual_seed(seed)
    population.add_seed(genome, generator=generator, images=random_images(genome, 16, generator))
    scramble(population.bank, population, generator)
    mutate = R2RMutation(**options)  # type: ignore[arg-type]
    mutate(population, size, rng=np.random.default_rng(seed), generation=1)
    return population, mutate


@settings(max_examples=60)
@given(genomes(), seeds, st.integers(1, 8))
def test_mutation_fills_the_population_exactly(genome: Genome, seed: int, size: int) -> None:
    population, _ = populated(genome, seed, size, concat_probability=0.3)
    assert len(population) == size
    assert len({member.genome.id for member in population}) == size
    for birth in population.lineage[1:]:
        assert birth.parent is not None
        assert set(population.birth(birth.parent).genome.ids) < set(birth.genome.ids)


@settings(max_examples=60)
@given(genomes(), seeds, st.floats(0.1, 0.95))
def test_children_share_more_than_the_threshold_or_saturation_is_told(
    genome: Genome, seed: int, threshold: float
) -> None:
    population = Population()
    generator = torch.Generator().manual_seed(seed)
    population.add_seed(genome, generator=generator, images=random_images(genome, 16, generator))
    mutate = R2RMutation(min_shared_fraction=threshold, max_rejections=20)
    report = mutate(population, 5, rng=np.random.default_rng(seed), generation=1)
    for birth in population.lineage[1:]:
        parent = population.birth(birth.parent or "")  # type: ignore[arg-type]
        assert num_parameters(parent.genome) / num_parameters(birth.genome) > threshold
    assert (len(population) == 5) != report.saturated
    if report.saturated:
        assert report.rejected["min_shared_fraction"] >= 20


def test_limits_reject_a_child_before_anything_is_built() -> None:
    genome = seed_genome("poster", (3, 16, 16), 4)
    most = num_parameters(genome)
    population, _ = populated(genome, 0, 4, max_parameters=most)
    assert len(population) == 1
    assert set(population.bank) == set(genome.ids)


@settings(max_examples=40)
@given(genomes(), seeds)
def test_blocks_of_the_dead_are_dropped_and_the_living_keep_every_bit(genome: Genome, seed: int) -> None:
    population, _ = populated(genome, seed, 6)
    survivor = list(population.members)[seed % 6]
    x = random_images(genome, 4, torch.Generator().manual_seed(seed))
    before = population[survivor].train()(x)
    dropped = population.keep([survivor])
    assert set(population.bank) == set(population[survivor].genome.ids)
    assert not set(dropped) & set(population.bank)
    assert torch.equal(before, population[survivor].train()(x))


@settings(max_examples=40)
@given(genomes(norms=["batch"]), seeds)
def test_scores_do_not_depend_on_the_order_or_company_of_members(genome: Genome, seed: int) -> None:
    population, _ = populated(genome, seed, 4)
    generator = torch.Generator().manual_seed(seed)
    calibration, x = random_images(genome, 16, generator), random_images(genome, 5, generator)
    members = list(population)

    def logits(order: list[int]) -> dict[int, torch.Tensor]:
        chosen = [members[i] for i in order]
        recalibrate(chosen, calibration)
        return {i: members[i].eval()(x) for i in order}

    together, turned = logits([0, 1, 2, 3]), logits([3, 1, 0, 2])
    for index in range(4):
        alone = logits([index])[index]
        assert torch.equal(together[index], turned[index])
        assert torch.equal(together[index], alone)


def test_same_seed_gives_the_same_population_and_another_seed_another() -> None:
    genome = seed_genome("poster", (3, 16, 16), 4)
    one, two, other = (populated(genome, seed, 6)[0] for seed in (1, 1, 2))
    assert one.bank.digest() == two.bank.digest()
    assert [b.genome for b in one.lineage] == [b.genome for b in two.lineage]
    assert one.bank.digest() != other.bank.digest()


def test_mutation_follows_the_probabilities_of_the_report() -> None:
    genome = seed_genome("poster", (3, 32, 32), 10)
    mutate, rng = R2RMutation(), np.random.default_rng(0)
    drawn = [mutate.draw(genome, rng=rng) for _ in range(4000)]
    widened = [t for t in drawn if isinstance(t, R2RWiden)]
    kernels = [t.kernel_size if isinstance(t, R2RWiden) else t.kernel_sizes[0] for t in drawn]  # type: ignore[attr-defined]
    assert len(widened) / 4000 == pytest.approx(0.5, abs=0.03)
    for size, share in ((1, 0.30), (3, 0.35), (5, 0.35)):
        assert kernels.count(size) / 4000 == pytest.approx(share, abs=0.03)


def test_wrong_options_and_strangers_are_named() -> None:
    with pytest.raises(ConfigError, match="deepen_probability"):
        R2RMutation(deepen_probability=2)
    with pytest.raises(ConfigError, match="kernel_probabilities"):
        R2RMutation(kernel_probabilities=(1.0, 1.0, 1.0))
    population, _ = populated(seed_genome("poster", (3, 16, 16), 4), 0, 2)
    with pytest.raises(InputError, match="m9"):
        population["m9"]  # type: ignore[index]
    with pytest.raises(InputError, match="at least one"):
        population.keep([])
