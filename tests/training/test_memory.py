"""The estimate of memory follows what makes a network large; `benchmarks/peak_memory.py` compares it with peaks."""

from dataclasses import replace

import numpy as np
import torch

from graftwork.evolution import Population
from graftwork.evolution.mutation import R2RMutation
from graftwork.networks.genome import num_parameters, seed_genome
from graftwork.training import MemoryLimit
from tests.training.small import RULES

SEED = seed_genome("default", (3, 32, 32), 10)
LIMIT = MemoryLimit(10**9, 250, 500, RULES["adam"])


def test_it_grows_with_the_batch_the_precision_and_the_state_of_the_optimizer() -> None:
    needed = LIMIT.needed(SEED)
    assert replace(LIMIT, batch_size=1000).needed(SEED) > 2 * needed
    assert replace(LIMIT, scoring_size=4000).needed(SEED) > 2 * needed
    assert replace(LIMIT, precision="bfloat16").needed(SEED) < 0.7 * needed
    assert replace(LIMIT, passes="compiled").needed(SEED) < needed
    assert replace(LIMIT, rules=RULES["sgd"]).needed(SEED) == needed - 4 * num_parameters(SEED)
    assert LIMIT.needed(SEED, others=10**6) == needed + 12 * 10**6
    assert LIMIT.holds(SEED) == (needed <= 10**9)


def test_a_weight_of_the_network_that_runs_takes_its_state_a_gradient_and_two_copies() -> None:
    still = replace(LIMIT, batch_size=0, scoring_size=0)
    wide = seed_genome("default", (3, 32, 32), 1000)
    assert still.needed(wide) - still.needed(SEED) == 4 * (3 + 3) * (num_parameters(wide) - num_parameters(SEED))


def grown(limit: MemoryLimit | None) -> tuple[Population, dict[str, int]]:
    population, rng = Population(), np.random.default_rng(0)
    population.add_seed(seed_genome("poster", (1, 8, 8), 3), generator=torch.Generator().manual_seed(0))
    report = R2RMutation(memory=limit, max_rejections=20)(population, 12, rng=rng, generation=1)
    return population, report.rejected


def test_children_that_would_not_fit_are_rejected_before_they_are_built_and_counted() -> None:
    free, none = grown(None)
    assert none == {}
    needs = [LIMIT.needed(genome) for genome in free.genomes]
    limit = replace(LIMIT, most=sorted(needs)[6])
    population, rejected = grown(limit)
    assert rejected["max_memory"] > 0
    assert all(limit.holds(genome) for genome in population.genomes)
    again, _ = grown(limit)
    assert again.genomes == population.genomes
    wide, rejected = grown(replace(limit, most=limit.needed(free.genomes[0], others=1)))
    assert len(wide) == 1
    assert set(rejected) == {"max_memory"}
