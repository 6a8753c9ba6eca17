"""Bags of embeddings and bilinear maps grow; a weight that is computed is refused with what computes it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import orthogonal

from graftwork.errors import SurgeryError, UnsupportedOperationError
from graftwork.numerics import output_gap
from graftwork.surgery import growth_sites, widen

METHODS = ("r2r", "net2net", "netmorph")


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_a_bag_of_embeddings_grows_in_every_mode(mode: str) -> None:
    model = nn.Sequential(nn.EmbeddingBag(20, 8, mode=mode), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.arange(15).view(3, 5)
    before = model(x)
    widen(model, "0", extra=4, example_input=x)
    assert (model[0].embedding_dim, model[2].in_features) == (12, 12)
    assert output_gap(before, model(x)) <= 1e-10


class Pairs(nn.Module):
    """Reads one or two hidden layers by a bilinear map."""

    def __init__(self, *, alike: bool) -> None:
        super().__init__()
        self.alike = alike
        self.left, self.right = nn.Linear(5, 8), nn.Linear(5, 8 if alike else 6)
        self.both, self.out = nn.Bilinear(8, 8 if alike else 6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        left = torch.tanh(self.left(x))
        right = left if self.alike else torch.tanh(self.right(x))
        return self.out(torch.tanh(self.both(left, right)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("alike", [True, False])
def test_a_bilinear_map_follows_what_it_reads_and_grows_what_it_makes(alike: bool, method: str) -> None:
    torch.manual_seed(0)
    model, x = Pairs(alike=alike).double(), torch.randn(3, 7, 5).double()
    before = model(x)
    for site in ("left", "both") if alike else ("left", "right", "both"):
        widen(model, site, extra=2, example_input=x, method=method)
    assert (model.both.in1_features, model.both.in2_features) == (10, 10 if alike else 8)
    assert model.both.out_features == model.out.in_features == 6
    assert output_gap(before, model(x)) <= 1e-10


def _pruned(layer: nn.Linear) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", 0.5)


@pytest.mark.parametrize(("put", "text"), [(_pruned, r"prune\.remove"), (orthogonal, "remove_parametrizations")])
def test_a_computed_weight_is_refused_with_what_computes_it_on_both_sides(
    put: Callable[[nn.Linear], nn.Module], text: str
) -> None:
    x = torch.randn(2, 4)
    makes = nn.Sequential(put(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3))
    reads = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), put(nn.Linear(8, 3)))
    for model in (makes, reads):
        with pytest.raises(SurgeryError, match=text):
            widen(model, "0", extra=2, example_input=x)
        assert "prun" in str(growth_sites(model, x)) or "parametriz" in str(growth_sites(model, x))


class Sorted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.out = nn.Parameter(torch.randn(4, 8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x @ torch.linalg.qr(self.weight.T)[0].T)


def test_a_place_with_an_operation_that_is_not_understood_is_refused_by_its_name() -> None:
    with pytest.raises(UnsupportedOperationError, match="linalg_qr"):
        widen(nn.Sequential(Sorted()), "0", extra=2, example_input=torch.randn(2, 4))


class Experts(nn.Module):
    """Experts whose rows are multiplied in one grouped product, as transformers does it by default."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(3, 16, 8)), nn.Parameter(torch.randn(3, 8, 16))

    def forward(self, x: Tensor) -> Tensor:
        ends = torch.tensor([2, 5, 6], dtype=torch.int32)
        hidden = torch.nn.functional.silu(torch._grouped_mm(x, self.up.transpose(-2, -1), offs=ends))
        return torch._grouped_mm(hidden, self.down.transpose(-2, -1), offs=ends)


def test_experts_of_a_grouped_product_grow_together() -> None:
    model, x = Experts(), torch.randn(6, 8)
    before = model(x)
    widen(model, "up", extra=8, example_input=x)
    assert (model.up.shape, model.down.shape) == ((3, 24, 8), (3, 8, 24))
    assert output_gap(before, model(x)) <= 2e-5
    with pytest.raises(SurgeryError, match="model's output"):
        widen(model, "down", extra=8, example_input=x)
