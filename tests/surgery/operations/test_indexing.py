"""Operations that write or read by index: channels beside the indexed dimension grow, the indexed one is refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graftwork.errors import SurgeryError
from graftwork.numerics import output_gap
from graftwork.surgery import widen

SOURCE, TARGET = torch.tensor([0, 1, 2, 3, 3, 1]), torch.tensor([1, 2, 3, 0, 1, 0])
Pool = Callable[[Tensor], Tensor]


def _rows(x: Tensor) -> Tensor:
    return TARGET.view(-1, 1).expand_as(x)


POOLS: dict[str, Pool] = {
    "scatter_add": lambda x: x.new_zeros(4, x.size(1)).scatter_add_(0, _rows(x), x),
    "scatter": lambda x: x.new_zeros(4, x.size(1)).scatter(0, _rows(x), x),
    "scatter-mean": lambda x: x.new_zeros(4, x.size(1)).scatter_reduce(0, _rows(x), x, "mean", include_self=False),
    "scatter-max": lambda x: x.new_zeros(4, x.size(1)).scatter_reduce_(0, _rows(x), x, "amax"),
    "index_add": lambda x: x.new_zeros(4, x.size(1)).index_add_(0, TARGET, x),
    "index_copy": lambda x: x.new_zeros(6, x.size(1)).index_copy(0, torch.arange(5, -1, -1), x),
    "index_fill": lambda x: x.index_fill(0, torch.tensor([1, 4]), 0.5),
    "index_put": lambda x: x.index_put((torch.tensor([1, 4]),), torch.zeros(2, x.size(1), dtype=x.dtype)),
    "masked rows": lambda x: x[torch.tensor([True, False, True, True, False, True])],
    "masked write": lambda x: x.index_put((torch.tensor([True, False] * 3),), torch.tensor(0.5, dtype=x.dtype)),
}


class Graph(nn.Module):
    """Messages along edges, pooled at their targets."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self.up, self.down = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        messages = torch.tanh(self.up(x)).index_select(0, SOURCE)
        return self.down(torch.sigmoid(self.pool(messages)))


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("method", ["r2r", "netmorph"])
def test_channels_beside_an_indexed_dimension_grow(name: str, method: str) -> None:
    torch.manual_seed(0)
    model, x = Graph(POOLS[name]).double(), torch.randn(4, 3, dtype=torch.float64)
    fresh = torch.randn(4, 3, dtype=torch.float64)
    before = model(fresh)
    receipt = widen(model, "up", extra=4, example_input=x, method=method)
    assert receipt.largest_gap <= 1e-10
    assert output_gap(before, model(fresh)) <= 1e-10
    assert (model.up.out_features, model.down.in_features) == (10, 10)


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.new_zeros(6, 6).index_add_(1, torch.tensor([1, 0, 2, 3, 5, 4]), x),
        lambda x: x.new_zeros(6, 6).scatter_add_(1, torch.tensor([[1, 0, 2, 3, 5, 4]] * 6), x),
        lambda x: x.new_zeros(6, 6).scatter(0, TARGET.view(-1, 1).expand(6, 4), x),
        lambda x: x.index_put((torch.arange(6), torch.arange(6)), x.new_zeros(6)),
        lambda x: torch.where(torch.tensor(True), x, x)[torch.ones(6, 6, dtype=torch.bool)].view(6, 6),
    ],
)
def test_channels_that_an_index_runs_over_are_refused(write: Pool) -> None:
    model, x = Graph(write).double(), torch.randn(4, 3, dtype=torch.float64)
    with pytest.raises(SurgeryError, match=r"index|mask|view"):
        widen(model, "up", extra=4, example_input=x)
    assert model.up.out_features == 6


class Interleaved(nn.Module):
    """A channel shuffle before a grouped convolution, as in ShuffleNet."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, channels, 1)
        self.mix = nn.Conv2d(channels, 4, 1, groups=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.stem(x))
        b, c, h, w = y.shape
        y = y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.head(self.mix(y).mean((2, 3)))


def test_shuffled_groups_grow_where_every_group_deals_evenly() -> None:
    torch.manual_seed(0)
    model, x = Interleaved(8).double(), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    before = model(x)
    widen(model, "stem", extra=8, example_input=x)
    assert model.stem.out_channels == 16
    assert output_gap(before, model(x)) <= 1e-10


def test_shuffled_groups_that_deal_unevenly_are_refused_by_name() -> None:
    model, x = Interleaved(6).double(), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    for site in ("stem", "mix"):
        with pytest.raises(SurgeryError, match=r"shuffle .*has interleaved.*in 'mix'"):
            widen(model, site, extra=8, example_input=x)
    assert model.stem.out_channels == 6


class Last(nn.Module):
    """Heads of queries beside one of keys, which an index picks from the end."""

    def __init__(self, *, places: list[int]) -> None:
        super().__init__()
        self.project, self.out, self.places = nn.Linear(6, 5 * 4), nn.Linear(4 * 4, 2), places

    def forward(self, x: Tensor) -> Tensor:
        heads = self.project(x).view(x.shape[0], -1, 4)
        return self.out((heads[:, :-1] * heads[:, self.places]).flatten(1))


def test_what_is_picked_from_the_end_is_a_part_like_a_slice() -> None:
    model, x = Last(places=[-1]).double(), torch.randn(3, 6, dtype=torch.float64)
    before = model(x)
    widen(model, "project", extra=8, example_input=x)
    assert (model.project.out_features, model.out.in_features) == (28, 24)
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)


def test_where_heads_are_picked_from_the_start_only_their_width_grows() -> None:
    with pytest.raises(SurgeryError, match="steps of 10, got 8"):  # two more units in each of five heads
        widen(Last(places=[4]).double(), "project", extra=8, example_input=torch.randn(3, 6, dtype=torch.float64))
