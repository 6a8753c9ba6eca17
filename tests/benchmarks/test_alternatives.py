"""`benchmarks/alternatives.py` compares ways that compute the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow


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


def test_filters_padded_to_one_size_give_the_volumes_of_each_size(alternatives: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 6, 6), (4, 3, 1, 1), (2, 3, 3, 3), (5, 3, 5, 5))
    x, *filters = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    volumes = alternatives.for_each_size(x, filters)
    assert len(volumes) == 3
    (whole,) = alternatives.padded(x, filters)
    torch.testing.assert_close(whole, torch.cat(volumes, 1))


def test_layers_of_several_kernel_sizes_are_found_where_they_stand(alternatives: Any) -> None:
    found = alternatives.mixed_layers()
    places = {(3, 32), (16, 32), (16, 16), (32, 16), (32, 8), (64, 8)}
    assert found
    assert all((channels, side) in places and len(hidden) > 1 for channels, side, hidden in found)
    assert all("ratio" in row for row in alternatives.padding(1, 1).values())


def test_the_iteration_as_written_gives_what_the_gram_matrix_gives(alternatives: Any) -> None:
    assert all(rows > 0 and columns > 2 * rows for rows, columns in alternatives.MATRICES)
    found = alternatives.muon(1)
    assert list(found) == ["192x1728", "128x1152", "32x288", "32x216"]
    assert all(row["largest_difference"] < 1e-5 for row in found.values())


def test_mixing_by_products_gives_what_a_convolution_gives(alternatives: Any) -> None:
    given = alternatives.mixing((3, 6, 4, 5), torch.float64)
    torch.testing.assert_close(alternatives.as_products(*given), alternatives.as_convolution(*given))
    (row,) = alternatives.mixings([(2, 6, 4, 3)], 1).values()
    assert row["ratio"]["median"] > 0
