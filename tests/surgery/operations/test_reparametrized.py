"""Weight and spectral normalization: rows under weight normalization grow, the rest is refused by name."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.nn.utils.parametrize import remove_parametrizations

from graftwork.errors import SurgeryError
from graftwork.numerics import output_gap
from graftwork.surgery import growth_sites, widen

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Norm = Callable[[nn.Module], nn.Module]
WEIGHT_NORMS = [parametrizations.weight_norm, weight_norm]


def _model(first: Norm, second: Norm) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(first(nn.Linear(4, 6)), nn.Tanh(), second(nn.Linear(6, 3))).double()


def _plain(module: nn.Module) -> nn.Module:
    return module


@pytest.mark.parametrize("norm", WEIGHT_NORMS)
def test_a_weight_normed_layer_grows_new_rows(norm: Norm) -> None:
    model = _model(norm, _plain)
    before = model(X)
    widen(model, "0", extra=4, example_input=X)
    assert output_gap(before, model(X)) <= 1e-10
    assert (model[0].out_features, model[2].in_features, model[0](X).shape[1]) == (10, 10, 10)
    model(X).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("norm", WEIGHT_NORMS)
def test_what_a_weight_normed_layer_reads_is_refused_with_what_to_do(norm: Norm) -> None:
    model = _model(_plain, norm)
    with pytest.raises(SurgeryError, match=r"weight normalization divides '2.*remove_parametrizations"):
        widen(model, "0", extra=4, example_input=X)


def test_without_the_norm_it_grows_and_the_norm_goes_on_again() -> None:
    model = _model(_plain, parametrizations.weight_norm)
    before = model(X)
    remove_parametrizations(model[2], "weight")
    widen(model, "0", extra=4, example_input=X)
    parametrizations.weight_norm(model[2])
    assert output_gap(before, model(X)) <= 1e-10


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, spectral_norm])
@pytest.mark.parametrize("place", [0, 2])
def test_spectral_normalization_is_refused_by_name_on_both_sides(norm: Norm, place: int) -> None:
    model = _model(norm, _plain) if place == 0 else _model(_plain, norm)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SurgeryError, match=r"spectral normalization .*remove_parametrizations"):
        widen(model, "0", extra=4, example_input=X)
    assert not growth_sites(model, X)["0"].widen
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_other_parametrizations_are_named() -> None:
    model = _model(_plain, parametrizations.orthogonal)
    with pytest.raises(SurgeryError, match=r"parametrization \(Orthogonal\)"):
        widen(model, "0", extra=4, example_input=X)
