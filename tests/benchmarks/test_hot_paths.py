"""What the clocks of `benchmarks/hot_paths.py` see."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graftwork.datasets import cache_folder
from graftwork.networks.kernels import build


@pytest.fixture
def hot_paths(benchmark: Callable[[str], Any]) -> Any:
    return benchmark("hot_paths")


def small_step() -> Callable[[], None]:
    convolution, x = nn.Conv2d(3, 4, 3, padding=1), torch.randn(2, 3, 8, 8, requires_grad=True)
    return lambda: F.relu(convolution(x)).sum().backward()


def test_clocks_see_the_way_forth_and_back_with_flops_and_the_rest(hot_paths: Any) -> None:
    rows = {row["operation"]: row for row in hot_paths.operations(small_step(), None, 2)}
    forth, back = rows["torch convolution"], rows["torch convolution_backward"]
    flops = 2 * 2 * 4 * 3 * 9 * 8 * 8
    assert forth["calls"] == back["calls"] == 1
    assert forth["gflop_per_second"] * forth["milliseconds"] == pytest.approx(flops / 1e6)
    assert back["gflop_per_second"] * back["milliseconds"] == pytest.approx(2 * flops / 1e6)
    assert rows["between operations"]["milliseconds"] > 0
    assert "torch threshold_backward" in rows


def test_the_gradients_of_filters_are_timed_alone(hot_paths: Any) -> None:
    found = hot_paths.weight_gradients(small_step(), None, 2)
    (row,) = found["convolutions"]
    assert (row["input"], row["filters"]) == ([2, 3, 8, 8], [4, 3, 3, 3])
    assert row["gflop_per_second"] * row["milliseconds"] == pytest.approx(2 * 2 * 4 * 3 * 9 * 8 * 8 / 1e6)
    assert found["milliseconds"] == row["milliseconds"] > 0


def test_compiled_passes_have_clocks_and_what_they_call_counts_as_theirs(hot_paths: Any) -> None:
    kernels = build(cache_folder())
    if kernels is None:
        pytest.skip("no C compiler")
    rows = {row["operation"]: row for row in hot_paths.operations(hot_paths.step("paper", "float32"), kernels, 1)}
    stems_only = {"forward", "backward"}  # the poster's network has no stem
    assert {name for name in hot_paths.PASSES if f"pass {name}" in rows} == {*hot_paths.PASSES} - stems_only
    assert rows["pass pool"]["calls"] == rows["pass unpool"]["calls"] == 3  # of the poster's network
    assert "torch native_batch_norm" not in rows
    assert "torch max_pool2d_with_indices" not in rows


def test_both_ways_of_scoring_give_the_same_answers(hot_paths: Any) -> None:
    ways = hot_paths.scoring(6, 4, "float32")
    apart, together = ways["member by member"](), ways["by the trie"]()
    assert len(apart) == len(together) == 10
    assert all((one[0] == other).all() for one, other in zip(apart, together, strict=True))
