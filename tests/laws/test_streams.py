"""Laws of model width over random models: the function stays, new channels are heard, old entries keep their places."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graftwork.numerics import output_gap
from graftwork.surgery import WidenStream, grow
from tests.surgery.streams_models import NORMS, Shape, build

EXAMPLES, MANY = 6, 150


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Any model of the kind that has an exact way to become wider."""
    kind = draw(st.sampled_from(NORMS))
    bare = kind.endswith("bare")  # without a gain nothing can undo what a tied head makes of a scaled stream
    return Shape(
        kind,
        width=draw(st.sampled_from([5, 6, 9])),
        depth=draw(st.integers(1, 2)),
        tied=draw(st.booleans()) and not bare,
        bias=draw(st.booleans()),
        factors=draw(st.booleans()),
        positions=draw(st.booleans()),
        rooted=draw(st.booleans()) and not bare,
    )


def _output(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)  # type: ignore[no-any-return]


@given(shape=shapes(), extra=st.integers(1, 13), seed=st.integers(0, 2**31))
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_width_keeps_the_function_and_new_channels_are_heard(shape: Shape, extra: int, seed: int) -> None:
    _law(shape, extra, seed)


@pytest.mark.slow
@given(shape=shapes(), extra=st.integers(1, 13), seed=st.integers(0, 2**31))
@settings(max_examples=MANY, deadline=None)
def test_the_same_over_many_models(shape: Shape, extra: int, seed: int) -> None:
    _law(shape, extra, seed)


def _law(shape: Shape, extra: int, seed: int) -> None:
    model, x = build(shape)
    before, old = _output(model, x), copy.deepcopy(model.state_dict())
    generator = torch.Generator().manual_seed(seed)
    growth = WidenStream(to=shape.width + extra, check="fast")
    receipt = grow(model, growth, example_input=x, generator=generator)
    assert output_gap(before, _output(model, x)) <= 1e-10
    for change in receipt.tensors:
        kept = model.state_dict()[change.name][tuple(slice(0, n) for n in change.old_shape or ())]
        ratio = (kept / old[change.name]).flatten()
        if not shape.norm.endswith("one-plus"):  # there the gain is w + 1
            torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    # The control: other new entries of one writer change the function.
    with torch.no_grad():
        rows = model.blocks[0].down.weight[shape.width :]
        rows += torch.randn(rows.shape, generator=generator, dtype=rows.dtype)
    assert output_gap(before, _output(model, x)) > 1e-6
