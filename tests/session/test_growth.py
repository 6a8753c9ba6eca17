"""What a search grows to on average decides what it is timed on."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graftwork.machine import Machine, TimedNetwork, _choose, choose_precision
from graftwork.networks.genome import forward_flops, seed_genome
from graftwork.session import SearchConfig
from graftwork.session._growth import typical_genome

POSTER = seed_genome("poster", (3, 32, 32), 10)
DEFAULT = seed_genome("default", (3, 32, 32), 10)


def _config(**options: Any) -> SearchConfig:
    return SearchConfig.from_dict({"data": "digits", **options})


def _num_blocks(genome: Any) -> int:
    return sum(len(layer.blocks) for layer in genome.layers)


def test_each_round_of_equal_work_counts_alike() -> None:
    """15 rounds after the first of as much work: 7.5 growths on average, of one block each."""
    config = _config(recipe="paper")
    grown = typical_genome(config, POSTER)
    assert _num_blocks(grown) - _num_blocks(POSTER) == 8
    assert typical_genome(replace(config, seed=5), POSTER) == grown
    assert grown.input_shape == POSTER.input_shape


@pytest.mark.parametrize(
    "options",
    [
        {"recipe": "default"},  # three quarters of the work train the seed
        {"recipe": "paper", "num_generations": 0},
        {"recipe": "paper", "population_size": 1, "num_survivors": 1},
    ],
)
def test_what_mostly_trains_its_seed_is_timed_on_it(options: dict[str, Any]) -> None:
    genome = DEFAULT if options["recipe"] == "default" else POSTER
    assert typical_genome(_config(**options), genome) == genome


def test_limits_hold_for_it() -> None:
    limit = forward_flops(POSTER) * 2
    grown = typical_genome(_config(recipe="paper", max_flops=limit), POSTER)
    assert forward_flops(POSTER) < forward_flops(grown) <= limit


def test_the_precision_is_measured_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, torch.Size]] = []

    def measure(network: nn.Module, batch: tuple[Tensor, Tensor], *, kernels: object, limit_seconds: float) -> Machine:
        assert kernels is None
        seen.append((network.genome, batch[0].shape))
        return Machine("bfloat16", reasons={"precision": "half the time"})

    monkeypatch.setattr(_choose, "measure_precision", measure)
    config = _config(recipe="paper", precision="auto")
    typical = typical_genome(config, POSTER)
    timed = partial(TimedNetwork, rules=config.recipe.rules, batch_size=6)
    machine = choose_precision(typical, precision="auto", passes="auto", kernels=None, timed=timed)
    assert seen == [(typical, torch.Size([6, 3, 32, 32]))]
    assert machine.precision == "bfloat16"
    assert machine.reasons["precision"] == f"half the time, with {len(typical.layers)} layers"
