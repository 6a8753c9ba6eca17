"""The op handlers that ``CONTRIBUTING.md`` shows work as they stand there."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.surgery.operations import OPERATIONS
from tests.contributing import blocks, run

OUTSIDE, INSIDE = blocks("An op handler")


@torch.library.custom_op("mylib::reversed_batch", mutates_args=())
def reversed_batch(x: Tensor) -> Tensor:
    """The batch in reverse order."""
    return x.flip(0)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    known = dict(OPERATIONS)
    yield
    OPERATIONS.clear()
    OPERATIONS.update(known)


class Net(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.up, self.down, self.name = nn.Linear(4, 6), nn.Linear(6, 3), name

    def forward(self, x: Tensor) -> Tensor:
        return self.down(getattr(torch.ops.mylib, self.name)(self.up(x)))


@pytest.mark.parametrize(("block", "name"), [(OUTSIDE, "sq"), (INSIDE, "reversed_batch")])
def test_a_growth_through_the_operation_is_exact_once_it_is_registered(block: str, name: str) -> None:
    run(block)
    torch.manual_seed(0)
    model, x = Net(name).double(), torch.randn(6, 4, dtype=torch.float64)
    before = model(x).detach()
    assert gw.widen(model, "up", extra=2, example_input=x).largest_gap < 1e-12
    assert model.up.out_features == 8
    torch.testing.assert_close(model(x), before)
