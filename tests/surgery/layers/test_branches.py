"""Residual branches are found from what an entry computes, whatever its modules are called."""

import pytest
import torch

from graftwork.surgery._calls import call_of
from graftwork.surgery.layers._branches import branches_of
from tests.surgery.layers import blocks

SILENT = {
    blocks.PreNorm: (2, {"out.weight", "out.bias", "down.weight", "down.bias"}),
    blocks.Parallel: (1, {"one.weight", "one.bias", "two.weight", "two.bias"}),
    blocks.LayerScale: (1, {"proj.parametrizations.weight.original0", "proj.bias"}),
    blocks.Sandwich: (1, {"after.weight"}),
    blocks.Excited: (1, {"norm.weight", "norm.bias"}),
}


@pytest.mark.parametrize("block", SILENT, ids=lambda block: block.__name__)
def test_the_last_projection_or_norm_of_every_branch_is_found(block: type) -> None:
    model, x = blocks.build(block)
    found = branches_of(model, model.blocks, call_of(x))
    count, names = SILENT[block]
    for place, one in enumerate(found):
        assert one is not None
        assert one.exact
        assert one.silence is not None
        assert one.count == count
        assert set(one.silence.values) == {f"blocks.{place}.{name}" for name in names}


@pytest.mark.parametrize("block", SILENT, ids=lambda block: block.__name__)
def test_what_is_found_makes_the_entry_the_identity(block: type) -> None:
    model, x = blocks.build(block)
    found = branches_of(model, model.blocks, call_of(x))[1]
    assert found is not None
    assert found.silence is not None
    parameters = dict(model.named_parameters())
    inputs: list[torch.Tensor] = []
    model.blocks[1].register_forward_pre_hook(lambda _module, args: inputs.append(args[0].clone()))
    with torch.no_grad():
        model(x)
        assert not torch.equal(model.blocks[1](inputs[0]), inputs[0])
        for name, value in found.silence.values.items():
            parameters[name].fill_(value)
        assert torch.equal(model.blocks[1](inputs[0]), inputs[0])


def test_a_gain_that_is_stored_as_one_plus_w_becomes_minus_one() -> None:
    model, x = blocks.build(blocks.Sandwich)
    found = branches_of(model, model.blocks, call_of(x))[0]
    assert found is not None
    assert found.silence is not None
    assert found.silence.values == {"blocks.0.after.weight": -1.0}
    assert found.silence.gains == {"blocks.0.after.weight"}


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (blocks.PostNorm, "post-norm"),
        (blocks.Constant, "can't be made zero"),
        (blocks.Rectified, "relu, through which zeros get no gradient"),
    ],
    ids=["post-norm", "part of the input", "rectifier"],
)
def test_what_can_not_start_as_the_identity_says_why(block: type, why: str) -> None:
    model, x = blocks.build(block)
    for one in branches_of(model, model.blocks, call_of(x)):
        assert one is not None
        assert not one.exact
        assert why in one.problem


def test_the_model_is_left_as_it_was() -> None:
    model, x = blocks.build(blocks.Excited)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    branches_of(model, model.blocks, call_of(x))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
