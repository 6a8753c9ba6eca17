"""A plan on the meta device is the plan of the model with weights."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import graftwork as gw
from graftwork.errors import SurgeryError
from graftwork.surgery._layout import free_units
from graftwork.surgery._tensors import is_stand_in, place_old, stand_in_tensor
from tests.surgery.checkpoints.folders import IDS, gpt2, llama

pytestmark = pytest.mark.filterwarnings("ignore")


def _convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))


def _on_meta(model: Any) -> Any:
    with torch.device("meta"):
        return type(model)(copy.deepcopy(model.config)).eval()


def _trained(model: nn.Module) -> nn.Module:
    with torch.no_grad():  # a bias of zero would be noted as one that need not change
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return model


@pytest.mark.parametrize(
    ("build", "growth"),
    [
        (partial(llama, num_hidden_layers=2), gw.InsertLayers("model.layers", count=2)),
        (partial(llama, num_hidden_layers=1), gw.WidenStream(1.5)),
        (partial(llama, num_hidden_layers=1), gw.WidenAll(1.5, only="*.mlp.*")),
        (partial(gpt2, n_layer=1), gw.WidenOutputs(None, 3)),
    ],
)
def test_a_plan_without_weights_is_the_plan_with_them(build: Any, growth: Any) -> None:
    model = _trained(build())
    planned = gw.plan(_on_meta(model), growth, example_input={"input_ids": IDS})
    assert str(planned) == str(gw.plan(model, growth, example_input={"input_ids": IDS}))
    with pytest.raises(SurgeryError, match="load the weights"):
        planned.apply()


def test_a_model_of_ones_own_is_planned_too_and_left_on_meta() -> None:
    images = torch.randn(2, 3, 6, 6)
    with torch.device("meta"):
        meta = _convolutions()
    growth = gw.Widen("0", extra=4)
    planned = gw.plan(meta, growth, example_input=images)
    assert planned.tensors == gw.plan(_convolutions(), growth, example_input=images).tensors
    assert all(tensor.is_meta for tensor in [*meta.parameters(), *meta.buffers()])


def test_a_constant_that_can_not_be_known_is_named() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("mask", torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) * self.mask

    with torch.device("meta"):
        meta = Masked()
    with pytest.raises(SurgeryError, match="'mask' on the meta device"):
        gw.plan(meta, gw.Widen("layer", extra=2), example_input=torch.randn(2, 4))


def test_stand_ins_take_no_memory_and_grow_into_stand_ins() -> None:
    tensor = stand_in_tensor((4000, 3000), torch.bfloat16)
    assert tensor.shape == (4000, 3000)
    assert tensor.untyped_storage().nbytes() < 100_000
    assert is_stand_in(tensor)
    assert not is_stand_in(torch.randn(4, 4))
    assert not is_stand_in(torch.ones(1, 4).expand(8, 4))  # a gradient may be one, and keeps its numbers
    assert torch.linalg.matrix_rank(stand_in_tensor((30, 20), torch.float32)) == 20
    grown = place_old(tensor, [free_units(4000, 1000), free_units(3000, 0)])
    assert grown.shape == (5000, 3000)
    assert is_stand_in(grown)
