import math

import pytest
import torch

from graftwork.errors import InputError
from graftwork.numerics import (
    matched_uniform,
    output_gap,
    reference_scale,
    tolerance_for,
    twin_columns,
    twin_rows,
)


def test_matched_uniform_has_the_requested_standard_deviation_and_bound() -> None:
    draw = matched_uniform((200, 300), std=0.05, generator=torch.Generator().manual_seed(0))
    assert draw.std().item() == pytest.approx(0.05, rel=0.01)
    assert draw.abs().max().item() <= math.sqrt(3) * 0.05


def test_same_seed_gives_equal_weights_and_another_seed_other_ones() -> None:
    draws = [matched_uniform((9,), std=1.0, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("std", [-1.0, math.nan, math.inf])
def test_an_impossible_scale_is_refused(std: float) -> None:
    with pytest.raises(InputError, match="std"):
        matched_uniform((2,), std=std)


def test_the_scale_of_zero_weights_falls_back_to_their_fan_in() -> None:
    assert reference_scale(torch.zeros(8, 16)) == pytest.approx(0.25)
    assert reference_scale(torch.tensor([3.0, -3.0])) == pytest.approx(3.0)
    assert reference_scale(torch.zeros(0), fan_in=4) == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_twins_cancel_whatever_acts_on_each_channel(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(7, 5, generator=generator, dtype=dtype)
    u = matched_uniform((6, 5), std=1.0, generator=generator, dtype=dtype)
    v = matched_uniform((4, 6), std=1.0, generator=generator, dtype=dtype)
    hidden = torch.nn.functional.gelu(x @ twin_rows(u).T)
    z = hidden @ twin_columns(v).T
    assert output_gap(torch.zeros_like(z), z, cancelled=float((hidden[:, :6] @ v.T).abs().max())) <= tolerance_for(
        dtype
    )


def test_the_gap_sees_a_change_a_missing_output_and_new_nans() -> None:
    y = torch.tensor([1.0, -2.0])
    assert output_gap({"a": y, "b": [y, None]}, {"a": y.clone(), "b": [y.clone(), None]}) == 0.0
    assert output_gap(y, y + torch.tensor([0.0, 0.5])) == pytest.approx(0.25)
    assert output_gap(y, (y, y)) == math.inf
    assert output_gap(y, torch.tensor([1.0, math.nan])) == math.inf
    assert output_gap(torch.zeros(2), torch.ones(2)) == math.inf
    masked = torch.tensor([1.0, -math.inf])
    assert output_gap(masked, masked.clone()) == 0.0
    assert output_gap(torch.tensor([1, 2]), torch.tensor([1, 3])) == math.inf


def test_the_gap_of_large_outputs_is_that_of_all_their_pieces() -> None:
    y = torch.zeros(3, 1 << 19)
    y[0, 5], y[2, 7] = 4.0, 1.0
    early, late, broken = y.clone(), y.clone(), y.clone()
    early[0, 6], late[2, 9], broken[2, 9] = 2.0, -2.0, math.nan
    assert output_gap(y, early) == output_gap(y, late) == 0.5
    assert output_gap(y, y.clone()) == 0.0
    assert output_gap(y, broken) == math.inf


def test_a_type_without_rounding_has_no_tolerance() -> None:
    with pytest.raises(InputError, match="int64"):
        tolerance_for(torch.int64)
