"""Every registered method keeps its promise, and one from outside takes part."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery import Method, Widen, grow, growth_sites, register_method, widen
from graftwork.surgery._layout import Layout, free_units
from graftwork.surgery._methods import METHODS


def _model() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    layers = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)
    return nn.Sequential(*layers).double(), torch.randn(4, 4, dtype=torch.float64)


@pytest.mark.parametrize("name", METHODS)
def test_a_unit_map_keeps_old_units_and_its_factors_say_whether_the_function_is_kept(name: str) -> None:
    """A consumer sums factor · unit over what equals a reduced unit: 1 for old ones, 0 for new ones."""
    method = METHODS[name]
    layout = method.unit_map(5, 2 * method.step, rng=np.random.default_rng(0))
    assert list(layout.old[:5]) == list(layout.source[:5]) == list(range(5))
    assert layout.new_size == 5 + 2 * method.step
    heard = np.bincount(layout.source, weights=layout.factor, minlength=layout.reduced)
    assert (list(heard[:5]) == [1.0] * 5 and not heard[5:].any()) == method.preserves
    assert (layout.factor[:5] == 1.0).all() == method.keeps_old_weights


def test_the_four_methods_are_registered_and_steps_come_from_them() -> None:
    assert list(METHODS) == ["r2r", "net2net", "netmorph", "random-padding"]
    model, x = _model()
    assert {name: growth_sites(model, x, method=name)["0"].step for name in METHODS} == {
        "r2r": 2,
        "net2net": 1,
        "netmorph": 1,
        "random-padding": 1,
    }


@pytest.fixture
def triples() -> Iterator[type[Method]]:
    @register_method
    class Triples(Method):
        """Three equal new units, heard with 1, 1 and −2."""

        name = "triples"
        step = 3

        def unit_map(self, size: int, added: int, *, rng: np.random.Generator) -> Layout:
            own = added // 3
            source = np.concatenate([np.arange(size), np.tile(np.arange(size, size + own), 3)])
            factor = np.concatenate([np.ones(size), np.repeat([1.0, 1.0, -2.0], own)])
            return Layout(free_units(size, added).old, source, factor, size + own, size)

    yield Triples
    del METHODS["triples"]


def test_a_method_from_outside_grows_as_the_others_do(triples: type[Method]) -> None:
    model, x = _model()
    before = model(x)
    assert growth_sites(model, x, method="triples")["0"].step == 3
    receipt = grow(model, Widen("0", extra=6, method="triples"), example_input=x)
    assert (receipt.method, model[0].out_features) == ("triples", 12)
    torch.testing.assert_close(model(x), before)
    assert torch.equal(model[0].weight[6:8], model[0].weight[10:12])
    assert torch.equal(model[2].weight[:, 10:], -2 * model[2].weight[:, 6:8])
    with pytest.raises(SurgeryError, match="taken"):
        register_method(triples)


def test_mirrors_need_a_method_that_keeps_old_weights() -> None:
    (model, x), (mirror, _) = _model(), _model()
    with pytest.raises(SurgeryError, match="mirrors: expected a method that keeps old weights, got 'net2net'"):
        widen(model, "0", extra=2, method="net2net", example_input=x, mirrors=[mirror])
    assert model[0].out_features == mirror[0].out_features == 6
