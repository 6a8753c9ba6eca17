"""Muon against torch's own, and what its variants promise."""

import pytest
import torch

from graftwork.training import Muon, orthogonalize

SHAPES = [(6, 20), (20, 6), (8, 8)]


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonalize_brings_singular_values_near_one_and_keeps_the_directions(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = orthogonalize(matrix, num_iterations=8)
    values = torch.linalg.svdvals(out)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ out @ right.T  # diagonal where out has the singular vectors of the matrix
    torch.testing.assert_close(inner, torch.diag(torch.diagonal(inner)), atol=1e-9, rtol=0)


def test_orthogonalize_of_zero_is_zero() -> None:
    assert torch.equal(orthogonalize(torch.zeros(3, 5)), torch.zeros(3, 5))


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_scaled_muon_equals_torch_muon_up_to_its_bfloat16(shape: tuple[int, int], nesterov: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator)
    mine, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    ours = Muon([mine], 0.1, weight_decay=0.2, momentum=0.9, nesterov=nesterov)
    oracle = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.2, momentum=0.9, nesterov=nesterov)
    for _ in range(4):
        mine.grad = torch.randn(shape, generator=generator)
        theirs.grad = mine.grad.clone()
        ours.step()
        oracle.step()
    # four steps of 0.1 move entries by up to 0.4; bfloat16 holds two to three digits
    torch.testing.assert_close(mine, theirs, atol=8e-3, rtol=0)
    torch.testing.assert_close(
        ours.state[mine]["momentum_buffer"], oracle.state[theirs]["momentum_buffer"], atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_scaled_muon_equals_torch_muon_where_its_iteration_runs_in_float32(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator)
    mine, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    ours, oracle = Muon([mine], 0.1, weight_decay=0.2), torch.optim.Muon([theirs], lr=0.1, weight_decay=0.2)
    for _ in range(4):
        mine.grad = torch.randn(shape, generator=generator)
        theirs.grad = mine.grad.clone()
        ours.step()
        oracle.step()
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_filters_move_as_their_flattened_matrix() -> None:
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(6, 3, 3, 3, generator=generator)
    gradient = torch.randn(6, 3, 3, 3, generator=generator)
    filters = torch.nn.Parameter(start.clone(memory_format=torch.channels_last))
    matrix = torch.nn.Parameter(start.reshape(6, 27).clone())
    filters.grad, matrix.grad = gradient.clone(memory_format=torch.channels_last), gradient.reshape(6, 27).clone()
    for parameter in (filters, matrix):
        Muon([parameter], 0.1, weight_decay=0.2).step()
    assert torch.equal(filters.detach().reshape(6, 27), matrix.detach())


def test_norm_reset_holds_the_norm_of_the_weights_before_each_update() -> None:
    generator = torch.Generator().manual_seed(3)
    parameter = torch.nn.Parameter(7 * torch.randn(6, 3, 3, 3, generator=generator))
    direction = parameter.detach() / parameter.detach().norm()
    parameter.grad = torch.randn(6, 3, 3, 3, generator=generator)
    optimizer = Muon([parameter], 0.0, variant="norm-reset")
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), direction * 6**0.5)
    optimizer.param_groups[0]["lr"] = 0.1
    before = parameter.detach().clone()
    optimizer.step()
    moved = (parameter.detach() - before).reshape(6, -1) / 0.1
    assert 0.6 < float(torch.linalg.svdvals(moved).min()) <= float(torch.linalg.svdvals(moved).max()) < 1.3


@pytest.mark.parametrize("rank", [2, 16])
@pytest.mark.parametrize("shape", [(16, 80), (80, 16), (16, 32), (16, 33)])
def test_small_singular_values_do_not_let_rounding_through(shape: tuple[int, int], rank: int) -> None:
    """The Gram matrix squares them, and an iteration multiplies what is small by 3.4, rounding too."""
    generator = torch.Generator().manual_seed(2)
    left, right = (torch.randn(size, rank, generator=generator, dtype=torch.float64) for size in shape)
    matrix = left @ torch.diag(torch.logspace(0, -8, rank, dtype=torch.float64)) @ right.T
    for count, gap in ((1, 1e-6), (3, 2e-5), (5, 1e-3)):
        exact = orthogonalize(matrix, num_iterations=count)
        found = orthogonalize(matrix.float(), num_iterations=count)
        torch.testing.assert_close(found.double(), exact, atol=gap, rtol=0)
