"""The study of strategies: its seeds are of the wrong size each in its way, and its table adds up."""

from typing import Any

import pytest

from experiments._strategies import COMPARED, SEED_ALONE, summarise, tabulate
from experiments._strategies_seeds import MISFITS, SIZES
from graftwork.networks.genome import forward_flops, num_parameters, seed_genome

CIFAR = (3, 32, 32), 10


def test_seeds_are_wrong_in_the_way_that_their_names_say() -> None:
    made = {name: kind(*CIFAR) for name, kind in MISFITS.items()}
    poster = made["poster"]
    assert (poster.body, poster.head) == (seed_genome("poster", *CIFAR).body, seed_genome("poster", *CIFAR).head)
    assert num_parameters(made["half-width"]) < num_parameters(poster) < num_parameters(made["double-width"])
    assert forward_flops(made["no-early-pooling"]) > 5 * forward_flops(poster)
    assert num_parameters(made["no-early-pooling"]) == num_parameters(poster)
    assert {block.kernel_size for block in made["1x1-only"].blocks()} == {1}
    assert len(made["too-deep"].layers) == 12
    assert len({kind(*CIFAR) for kind in SIZES.values()}) == len(SIZES) == 8


def entry(tested: float, validated: float = 0.5) -> dict[str, Any]:
    return {"test_accuracy": tested, "validation_accuracy": validated, "parameters": 1, "spent_flops": 1}


def test_the_share_that_is_closed_is_that_of_the_gap_to_the_size_that_is_best_on_validation() -> None:
    sizes = {name: entry(0.5) for name in SIZES} | {"width-16x1": entry(0.8, 0.9), "width-8x1": entry(0.95, 0.4)}
    arms = {SEED_ALONE: entry(0.6)} | {name: entry(0.65) for name in COMPARED} | {"race": entry(0.75)}
    row = {"sizes": sizes, "misfits": dict.fromkeys(MISFITS, arms)}
    summary = summarise([row])
    assert summary["mean_gap"] == pytest.approx(0.2)
    assert summary["closed"]["race"] == pytest.approx(0.75)
    assert summary["closed"]["random"] == pytest.approx(0.25)
    table = tabulate(summary)
    assert f"| test accuracy, % | {SEED_ALONE} | {' | '.join(COMPARED)} |" in table
    assert "| 1x1-only | 60.00 | 65.00 |" in table
    assert "75 %" in table
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1
