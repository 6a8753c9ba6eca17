"""What can't be grown is refused by name, with its place or with advice, before anything is changed."""

import pytest
import torch
from torch import Tensor, nn

from graftwork.errors import SurgeryError, UnsupportedOperationError
from graftwork.surgery import growth_sites, widen, widen_all
from tests.surgery.models import Attention


class Mixing(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.up = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(6)
        self.down = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        if self.kind == "softmax":
            h = h.softmax(-1)
        elif self.kind == "norm":
            h = self.norm(h)
        elif self.kind == "mean":
            h = h - h.mean(-1, keepdim=True)
        elif self.kind == "sort":
            h = h.sort(dim=-1).values
        elif self.kind == "gram":
            h = h * (h @ h.T).sum(-1, keepdim=True)
        elif self.kind == "positions":
            h = h * torch.arange(h.size(-1), dtype=h.dtype)
        elif self.kind == "renorm":
            h = h.renorm(2, 0, 1.0)
        elif self.kind == "flip":
            h = h.flip(-1)
        return self.down(h)


@pytest.mark.parametrize("kind", ["softmax", "norm", "mean", "sort", "gram", "positions", "flip"])
def test_operations_that_mix_channels_are_refused_by_name(kind: str) -> None:
    model, x = Mixing(kind).double(), torch.randn(5, 4, dtype=torch.float64)
    with pytest.raises(SurgeryError, match="can't be widened") as caught:
        widen(model, "up", extra=2, example_input=x)
    assert growth_sites(model, x)["up"].refusal == str(caught.value)


def test_an_operation_that_is_not_understood_is_named_with_its_place() -> None:
    model, x = Mixing("renorm").double(), torch.randn(5, 4, dtype=torch.float64)
    with pytest.raises(UnsupportedOperationError, match=r"renorm.*test_refused\.py:\d+"):
        widen(model, "up", extra=2, example_input=x)


class TiedTransposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.mid = nn.Linear(4, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.tanh(self.embed(tokens)) @ self.embed.weight.T


def test_transposed_weight_tying_is_refused() -> None:
    with pytest.raises(SurgeryError, match="transposed tying"):
        widen(TiedTransposed(), "embed", extra=2, example_input=torch.randint(7, (2, 3)))


class OptimizedModule(nn.Linear):
    """Named like the wrapper of torch.compile, whose import warns."""

    def __init__(self) -> None:
        super().__init__(4, 3)


def test_wrapped_models_are_refused_with_advice() -> None:
    x = torch.randn(2, 4)
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(4, 3))
    with pytest.raises(SurgeryError, match="mirrors"):
        widen(averaged, "module", extra=2, example_input=x)
    with pytest.raises(SurgeryError, match="_orig_mod"):
        widen(OptimizedModule(), "weight", extra=2, example_input=x)
    with pytest.raises(SurgeryError, match="lazy"):
        widen(nn.LazyLinear(3), "weight", extra=2, example_input=x)
    with pytest.raises(SurgeryError, match="meta"):
        widen(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).to("meta"), "0", extra=2, example_input=x)
    with pytest.raises(SurgeryError, match="fails on example_input"):
        widen(nn.Linear(4, 3), "weight", extra=2, example_input=torch.randn(2, 5))


def test_widen_all_on_a_model_with_nothing_to_widen_says_so() -> None:
    with pytest.raises(SurgeryError, match="growth_sites says why"):
        widen_all(nn.Linear(3, 2), 2, example_input=torch.randn(2, 3))


def test_the_head_dimension_of_attention_is_refused_by_name() -> None:
    model, x = Attention(width=6, heads=1).double(), torch.randint(11, (2, 5))
    with pytest.raises(SurgeryError, match="head dimension of attention"):
        widen(model, "q", extra=2, example_input=x)
