"""Laws of whole layers over random models: the function stays, old tensors and their moments keep every bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graftwork.numerics import output_gap
from graftwork.surgery import InsertLayers, grow
from graftwork.surgery.layers import INITS
from tests.surgery.streams_models import Shape, build, shapes

EXAMPLES, MANY = 3, 60


def _output(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)  # type: ignore[no-any-return]


places = st.lists(st.integers(-1, 0), min_size=1, max_size=3)


@pytest.mark.parametrize("init", INITS)
@given(shape=shapes(), places=places, seed=st.integers(0, 2**31))
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_layers_keep_the_function_and_old_tensors_their_bits(
    init: str, shape: Shape, places: list[int], seed: int
) -> None:
    _law(init, shape, places, seed)


@pytest.mark.slow
@pytest.mark.parametrize("init", INITS)
@given(shape=shapes(), places=places, seed=st.integers(0, 2**31))
@settings(max_examples=MANY, deadline=None)
def test_the_same_over_many_models(init: str, shape: Shape, places: list[int], seed: int) -> None:
    _law(init, shape, places, seed)


def _law(init: str, shape: Shape, places: list[int], seed: int) -> None:
    model, x = build(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    before, moment = _output(model, x), "exp_avg_sq"
    old = {p: (p.detach().clone(), optimizer.state[p][moment].clone()) for p in model.parameters()}
    growth = InsertLayers("blocks", after=tuple(places), init=init, approximate=init == "copy", check="fast")
    receipt = grow(model, growth, example_input=x, optimizer=optimizer)
    assert len(model.blocks) == shape.depth + len(places)
    now = set(model.parameters())
    assert set(old) <= now
    assert all(torch.equal(p, w) and torch.equal(optimizer.state[p][moment], m) for p, (w, m) in old.items())
    assert {p for group in optimizer.param_groups for p in group["params"]} == now
    gap = output_gap(before, _output(model, x))
    if init == "copy":  # the control: plain copies change the function
        assert gap > 1e-6
        return
    assert gap <= 1e-10
    new = next(change.name for change in receipt.tensors if change.name.endswith("down.weight"))
    with torch.no_grad():  # and so does a new branch that does not end in zeros or twins
        weight = model.get_parameter(new)
        weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed), dtype=weight.dtype)
    assert output_gap(before, _output(model, x)) > 1e-6
