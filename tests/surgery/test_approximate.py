"""Growths that can't be exact: refused with the reason, and made on request with their measured gap."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.numerics import output_gap
from graftwork.surgery import Widen, growth_sites, load_model, plan, save_model, widen, widen_all


class Normed(nn.Module):
    """A residual stream that norms run over: built in, without weights, and written out."""

    def __init__(self, norm: str = "layer", divide: bool = False) -> None:
        super().__init__()
        kinds = {"layer": nn.LayerNorm(8), "bare": nn.LayerNorm(8, elementwise_affine=False), "rms": nn.RMSNorm(8)}
        self.embed = nn.Linear(4, 8)
        self.norm = kinds.get(norm, nn.Identity())
        self.written, self.divide = norm == "written", divide
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)

    def _normed(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() if self.written else self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.down(torch.relu(self.up(self._normed(x))))
        return self.head(self._normed(x / x.size(-1) if self.divide else x))


KINDS = ("layer", "bare", "rms", "written")


def _setup(norm: str = "layer") -> tuple[Normed, Tensor]:
    return Normed(norm).double(), torch.randn(5, 4, dtype=torch.float64)


@pytest.mark.parametrize("norm", KINDS)
def test_a_norm_over_the_channels_is_refused_with_the_reason_and_the_offer(norm: str) -> None:
    model, x = _setup(norm)
    with pytest.raises(SurgeryError, match=r"without changing the function.*approximate=True") as caught:
        widen(model, "embed", extra=4, example_input=x)
    site = growth_sites(model, x)["embed"]
    assert site.approximate
    assert not site.widen
    assert site.refusal == str(caught.value)


@pytest.mark.parametrize("norm", KINDS)
def test_the_receipt_states_the_gap_that_is_really_there(norm: str) -> None:
    model, x = _setup(norm)
    before = model(x)
    planned = plan(model, Widen("embed", extra=4, approximate=True), example_input=x)
    assert "approximate: " in str(planned)
    receipt = planned.apply()
    assert model.embed.out_features == 12
    assert receipt.approximations
    gap = output_gap(before, model(x))
    assert 1e-6 < gap <= receipt.largest_gap
    assert f"{receipt.largest_gap:.1e}" in str(receipt)
    assert "approximate, not rounding" in str(receipt)


@pytest.mark.parametrize("norm", KINDS)
def test_copying_every_channel_once_keeps_the_statistics(norm: str) -> None:
    model, x = _setup(norm)
    before = model(x)
    widen(model, "embed", factor=2, method="net2net", example_input=x, approximate=True)
    assert output_gap(before, model(x)) < 1e-12


def test_what_can_be_exact_is_still_checked_as_exact() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.up(x))
            return self.down(h / h.size(-1))

    x = torch.randn(5, 4, dtype=torch.float64)
    with pytest.raises(NotPreservedError):
        widen(Wrong().double(), "up", extra=2, example_input=x, approximate=True)
    model, x = _setup()
    receipt = widen(model, "up", extra=2, example_input=x, approximate=True)
    assert receipt.approximations == ()
    assert receipt.largest_gap < 1e-10


def test_outputs_softmax_and_unmeasured_gaps_stay_refused() -> None:
    model, x = _setup()
    with pytest.raises(SurgeryError, match="model's output"):
        widen(model, "head", extra=2, example_input=x, approximate=True)
    with pytest.raises(SurgeryError, match="check=True"):
        widen(model, "embed", extra=2, example_input=x, approximate=True, check=False)


def test_many_norms_do_not_hide_what_forbids_a_growth() -> None:
    """A volume that eight norms run over and that is the output too."""
    layers = [nn.Linear(4, 6), *(nn.LayerNorm(6) for _ in range(8))]
    with pytest.raises(SurgeryError, match="can't be widened"):
        widen(nn.Sequential(*layers), "0", extra=2, example_input=torch.randn(3, 4), approximate=True)


def test_an_approximate_growth_is_saved_and_built_again(tmp_path: Path) -> None:
    model, x = _setup()
    widen_all(model, 1.5, example_input=x, approximate=True)
    assert model.norm.normalized_shape == (12,)
    save_model(model, tmp_path)
    again = load_model(lambda: Normed().double(), tmp_path)
    assert again.norm.normalized_shape == (12,)
    assert torch.equal(again(x), model(x))


class Breaking(Normed):
    """Divides by what is zero once the stream is four channels wider."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (12 - self.embed(x).size(-1))


def test_outputs_that_are_not_finite_are_no_gap_to_accept() -> None:
    model, x = Breaking().double(), torch.randn(5, 4, dtype=torch.float64)
    before = model(x)
    with pytest.raises(NotPreservedError):
        widen(model, "embed", extra=4, example_input=x, approximate=True)
    assert torch.equal(model(x), before)
    assert widen(model, "embed", extra=2, example_input=x, approximate=True).approximations
