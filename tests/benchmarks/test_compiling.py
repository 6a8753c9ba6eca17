"""`benchmarks/compiling.py` compiles the same network that it holds the compiled one against."""

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.mark.parametrize("recipe", ["paper", "default"])
@pytest.mark.parametrize("growths", [0, 3])
def test_plain_modules_are_the_same_network(benchmark: Callable[[str], Any], recipe: str, growths: int) -> None:
    compiling = benchmark("compiling")
    ours, plain, x, labels = compiling.networks(recipe, growths, 4)
    torch.testing.assert_close(plain(x), ours(x), atol=1e-4, rtol=1e-4)
    seed, grown = (len(list(compiling.genome_of(recipe, number).blocks())) for number in (0, growths))
    assert grown - seed == growths
    for network in (ours, plain):
        compiling.passes(network, x, labels, "float32")()
