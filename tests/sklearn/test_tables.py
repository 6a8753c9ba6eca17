"""Growth works on rows of a table: a genome of 1×1 blocks on [features, 1, 1] is widened and deepened."""

import numpy as np
import torch

from graftwork.evolution import Population
from graftwork.evolution.mutation import R2RMutation
from graftwork.evolution.transforms import R2RDeepen, R2RWiden, Transform, output_gap
from graftwork.networks import recalibrate
from graftwork.networks.genome import forward_flops, seed_genome


def _population() -> tuple[Population, torch.Tensor]:
    population, rows = Population(), torch.randn(40, 5, 1, 1, dtype=torch.float64)
    population.add_seed(seed_genome("table", (5, 1, 1), 3), generator=torch.Generator().manual_seed(0))
    population.bank.to(dtype=torch.float64)
    for _, parameter, _ in population.bank.parameters():  # not the near-identity that a new network is
        parameter.data += 0.3 * torch.randn_like(parameter)
    recalibrate(list(population), rows)
    return population, rows


def test_widening_and_deepening_a_table_network_keep_its_function() -> None:
    transforms: list[Transform] = [R2RWiden(0, 1, 8), R2RDeepen(1, (1,), 8)]
    for transform in transforms:
        population, rows = _population()
        parent = population[next(iter(population.members))]
        growth = transform(parent.genome, rng=np.random.default_rng(0))
        child = population[population.graft("m0", growth, generator=torch.Generator().manual_seed(1))]
        population.bank.to(dtype=torch.float64)
        recalibrate([child], rows)
        assert output_gap(parent.eval(), child.eval(), rows) < 1e-11
        assert forward_flops(child.genome) > forward_flops(parent.genome)


def test_mutation_of_a_table_network_draws_blocks_of_one_pixel() -> None:
    population, _ = _population()
    population.bank.to(dtype=torch.float32)
    report = R2RMutation(kernel_probabilities=(1, 0, 0))(population, 6, rng=np.random.default_rng(0))
    assert len(report.born) == 5
    kernels = {block.kernel_size for genome in population.genomes for layer in genome.layers for block in layer.blocks}
    assert kernels == {1}
    assert len({len(genome.layers) for genome in population.genomes}) > 1
