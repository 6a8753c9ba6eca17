"""`benchmarks/alternatives.py` compares ways that compute the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture
def alternatives(benchmark: Callable[[str], Any]) -> Any:
    return benchmark("alternatives")


@pytest.mark.parametrize("side", [3, 6])
def test_all_ways_give_the_gradient_of_the_filters(alternatives: Any, side: int) -> None:
    gradient, x, filters = alternatives.tensors((4, 6, side), 3, torch.float64)
    leaf = filters.clone().requires_grad_()
    torch.nn.functional.conv2d(x, leaf, padding=1).backward(gradient)
    assert leaf.grad is not None
    for name, way in alternatives.WAYS.items():
        torch.testing.assert_close(way(gradient, x, filters), leaf.grad, msg=name)


def test_each_alternative_is_held_against_what_we_do(alternatives: Any) -> None:
    found = alternatives.filter_gradients([(4, 6, 3)], 2, 2)
    assert list(found) == ["4 to 6 channels, 3 pixels"]
    (rows,) = found.values()
    assert ["ratio" in row for row in rows.values()] == [False, True, True]
    parts = alternatives.batches(10, 1)
    assert list(parts) == ["10 at a time", "5 at a time", "2 at a time"]
    assert parts["10 at a time"]["ratio"]["median"] == 1
