"""The population that the speed benchmarks run is one of evolved, deep members that share blocks."""

from collections.abc import Callable
from typing import Any

from graftwork.networks.execution import shared_flops
from graftwork.networks.genome import forward_flops


def test_the_stored_members_are_deep_share_blocks_and_bind_to_one_bank(benchmark: Callable[[str], Any]) -> None:
    population = benchmark("population")
    genomes = population.load()
    assert len(set(genomes)) == 10
    depths = [len(genome.layers) for genome in genomes]
    assert 6 <= min(depths) < max(depths) <= 9
    named = [block_id for genome in genomes for block_id in genome.ids]
    bank = population.grow(genomes)
    assert set(bank) == set(named)
    assert len(named) > 2 * len(bank)
    assert shared_flops(genomes) < sum(map(forward_flops, genomes))
