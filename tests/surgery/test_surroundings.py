"""Sizes that modules keep in tuples and lists, contexts around a growth, and what a failure says of it."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graftwork.errors import SurgeryError
from graftwork.surgery import Deepen, ModelGrowth, Widen, WidenAll, grow, growth_sites, remove


class Sized(nn.Module):
    """Keeps its widths in a tuple or list, and cuts or folds what it computes by them."""

    def __init__(self, sizes: Any, use: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.sizes, self.use = nn.Linear(6, 8), nn.Linear(6, 8), sizes, use
        self.out = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.use(torch.cat([torch.relu(self.first(x)), self.second(x)], 1), self.sizes))


def _cut(x: Tensor, sizes: Any) -> Tensor:
    left, right = x.split(list(sizes), 1)
    return torch.cat([left, right.sigmoid()], 1)


@pytest.mark.parametrize(
    ("sizes", "use", "after"),
    [
        ((8, 8), _cut, (12, 12)),  # equal pieces of a split grow together
        ([8, 8], _cut, [12, 12]),
        ((2, 8), lambda x, sizes: x.view(-1, *sizes).flatten(1), (2, 12)),
        ((16, 16), lambda x, sizes: x.view(-1, sizes[0]) * (sizes[1] / 16), (24, 16)),  # one of them is another number
        ([16, 16], lambda x, sizes: x.view(-1, sizes[1]) * (sizes[0] / 16), [16, 24]),
    ],
    ids=["a tuple", "a list", "folded", "beside another number", "behind another number"],
)
def test_sizes_in_tuples_and_lists_follow(sizes: Any, use: Callable[..., Tensor], after: Any) -> None:
    model, x = Sized(sizes, use).double(), torch.randn(5, 6, dtype=torch.float64)
    before = model(x)
    grow(model, WidenAll(1.5), example_input=x)
    assert model.sizes == after
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)


class Grouped(nn.Module):
    """Each of its keys serves several heads; it keeps the number of all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.queries, self.out, self.heads = nn.Linear(6, 2 * 4), nn.Linear(6, 6 * 4), nn.Linear(6 * 4, 2), 6

    def forward(self, x: Tensor) -> Tensor:
        keys = self.keys(x).view(-1, 2, 1, 4).expand(-1, 2, self.heads // 2, 4).reshape(-1, self.heads, 4)
        return self.out((self.queries(x).view(-1, self.heads, 4) * keys).flatten(1))


def test_the_number_of_all_heads_follows_where_each_key_serves_several() -> None:
    model, x = Grouped().double(), torch.randn(5, 6, dtype=torch.float64)
    before = model(x)
    grow(model, Widen("queries", factor=2, axis=1, method="netmorph"), example_input=x)
    assert (model.heads, model.keys.out_features, model.queries.out_features) == (12, 8, 48)
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradient": torch.no_grad,
}


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("growth", [Widen("0", extra=4), Deepen("1")], ids=["widen", "deepen"])
def test_a_context_around_the_call_changes_nothing(context: str, growth: ModelGrowth) -> None:
    x, plain, around = torch.randn(3, 3, 8, 8), _model(), _model()
    receipt = grow(plain, growth, example_input=x)
    with CONTEXTS[context]():
        inside = grow(around, growth, example_input=x)
        entered = torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    assert entered == {
        "autocast": (True, False, True), "inference mode": (False, True, False), "no gradient": (False, False, False),
    }[context]  # fmt: skip
    assert inside.gaps == receipt.gaps
    for name, tensor in plain.state_dict().items():
        assert torch.equal(around.state_dict()[name], tensor)
    around.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in around.parameters())


def test_weights_that_autocast_has_cached_are_not_used_any_longer() -> None:
    model, x = _model(), torch.randn(3, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = model(x)
        receipt = grow(model, Widen("0", extra=4), example_input=x)
        torch.testing.assert_close(model(x), before, rtol=0, atol=0.1)
        assert growth_sites(model, x).sites
        remove(model, receipt, example_input=x)
        assert torch.equal(model(x), before)


def test_tensors_made_in_inference_mode_are_refused_as_weights_and_taken_as_examples() -> None:
    with torch.inference_mode():
        made, x = _model(), torch.randn(3, 3, 8, 8)
    with pytest.raises(SurgeryError, match=r"was made in inference mode"):
        grow(made, Widen("0", extra=4), example_input=x)
    grow(copy.deepcopy(made), Widen("0", extra=4), example_input=x)


class Fussy(nn.Module):
    """Takes a plain linear map only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        if type(self.first) is not nn.Linear:
            raise TypeError("first has to be an nn.Linear")
        return self.out(torch.relu(self.first(x)))


def test_a_failure_names_the_growth_that_it_is_of() -> None:
    with pytest.raises(SurgeryError, match="fails with a block behind first") as caught:
        grow(Fussy(), Deepen("first"), example_input=torch.randn(3, 4))
    assert "wider" not in str(caught.value)


class Spectral(nn.Module):
    """A Fourier layer: weights for each channel and frequency, or for pairs of channels."""

    def __init__(self, *, pairs: bool) -> None:
        super().__init__()
        self.first, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.weight = nn.Parameter(torch.randn(8, *([8] if pairs else []), 6, 4, dtype=torch.complex128) / 8)
        self.pairs = pairs

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        waves = torch.fft.rfft2(hidden)
        waves = torch.einsum("bixy,ioxy->boxy", waves, self.weight) if self.pairs else waves * self.weight
        return self.out(torch.fft.irfft2(waves, s=hidden.shape[-2:]))


@pytest.mark.parametrize("pairs", [False, True])
def test_channels_grow_beside_a_fourier_transform_over_space(pairs: bool) -> None:
    model, x = Spectral(pairs=pairs).double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    before = model(x)
    grow(model, Widen("first", extra=4), example_input=x)
    assert model.weight.shape[0] == 12
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "norm",
    [nn.InstanceNorm2d(8), nn.BatchNorm2d(8, affine=False), nn.BatchNorm2d(8, track_running_stats=False)],
    ids=["instance norm", "batch norm without affine", "batch norm without statistics"],
)
def test_norms_without_weights_follow(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), copy.deepcopy(norm), nn.ReLU(), nn.Conv2d(8, 2, 1)).double()
    x = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    before = copy.deepcopy(model)(x)
    grow(model, Widen("0", extra=4), example_input=x)
    assert model[1].num_features == 12
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)
