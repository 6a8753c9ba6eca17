"""Laws of model width over random models: the function stays, new channels are heard, old entries keep their places."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graftwork.numerics import output_gap
from graftwork.surgery import WidenAll, WidenStream, grow
from tests.surgery.streams_models import Shape, build, shapes

EXAMPLES, MANY = 6, 150


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


@given(shape=shapes(), extra=st.integers(0, 13), seed=st.integers(0, 2**31))
@settings(max_examples=EXAMPLES, deadline=None)
def test_heads_and_inner_widths_grow_alone_or_with_the_stream_and_keep_the_function(
    shape: Shape, extra: int, seed: int
) -> None:
    """Without more channels of the stream, everything else grows; the control writes into it what does not cancel."""
    model, x = build(shape)
    before, up = _output(model, x), model.blocks[0].up.out_features
    width = (shape.width + extra) / shape.width if extra else None
    generator = torch.Generator().manual_seed(seed)
    receipt = grow(model, WidenAll(1.5, width=width, check="fast"), example_input=x, generator=generator)
    assert receipt.parameters[1] > receipt.parameters[0]
    assert model.embed.embedding_dim == shape.width + extra
    assert output_gap(before, _output(model, x)) <= 1e-10
    with torch.no_grad():
        new = model.blocks[0].down.weight[:, up:]
        assert new.numel() > 0
        new += torch.randn(new.shape, generator=generator, dtype=new.dtype)
    assert output_gap(before, _output(model, x)) > 1e-6
