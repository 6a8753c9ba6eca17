"""What `benchmarks/memory.py` counts: unique bytes, and what a step holds beyond the weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from graftwork.networks.genome import parameters_per_entry
from graftwork.typing import BlockId

pytestmark = pytest.mark.slow


@pytest.fixture
def memory(benchmark: Callable[[str], Any]) -> Any:
    return benchmark("memory")


def test_memory_that_several_tensors_look_at_counts_once(memory: Any) -> None:
    one = torch.zeros(10)
    assert memory.unique_bytes([one, one, one.view(2, 5), torch.zeros(3)]) == 4 * 13


def test_a_population_costs_the_bytes_of_its_unique_blocks(memory: Any) -> None:
    population, _ = memory.grow(12, 0)
    unique: dict[BlockId, int] = {}
    for genome in population.genomes:
        unique |= parameters_per_entry(genome)
    hidden = {block.id: block.hidden_channels for genome in population.genomes for block in genome.blocks()}
    assert memory.unique_bytes(p for _, p, _ in population.bank.parameters()) == 4 * sum(unique.values())
    statistics = memory.unique_bytes(b for member in population for b in member.buffers())
    assert statistics == 4 * 2 * sum(hidden.values())  # a mean and a variance, of every block once


def test_one_population_is_measured_and_a_step_holds_what_one_member_needs(memory: Any) -> None:
    threads = torch.get_num_threads()
    found = memory.measure(6, 0, 4)
    torch.set_num_threads(threads)
    assert found["members"] == 6
    assert found["blocks"] == 3 + 1 + 5
    assert all(value > 0 for key, value in found.items() if key not in ("resident_bytes", "checkpoint_peak_bytes"))
    held, bound = found["gradient_and_moment_bytes_after_its_step"], found["one_members_bytes"]
    assert abs(held - 3 * bound) < 1000  # a gradient and Adam's two moments, and none for the rest of the bank
    assert found["checkpoint_bytes"] > found["parameter_bytes"]


def test_the_slope_of_a_cost_is_its_exponent(memory: Any) -> None:
    rows = [{"members": n, "blocks": 3 * n, "seconds": 0.5 * n**2} for n in (10, 100, 1000)]
    assert memory.slopes(rows, "seconds", "blocks") == {"all": pytest.approx(2), "last": pytest.approx(2)}
