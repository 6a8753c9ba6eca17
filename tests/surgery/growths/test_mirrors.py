"""Copies of a model (moving averages) grow along with every kind of growth, and keep a function of their own."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from graftwork.surgery import (
    AddSharedExpert,
    Deepen,
    InsertLayers,
    ModelGrowth,
    RepeatExperts,
    RepeatKeyValueHeads,
    Widen,
    WidenAll,
    WidenInputs,
    WidenOutputs,
    WidenStream,
    grow,
)
from graftwork.surgery.growths import KINDS
from tests.surgery.mixture import MixtureNet

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
GROWTHS = [
    Widen("blocks.0.up", extra=4),
    WidenAll(1.5),
    WidenAll(1.5, width=1.5),
    WidenStream(1.5),
    Deepen("embed"),
    Deepen("tail", like="tail"),
    InsertLayers("blocks", after=(0,)),
    InsertLayers("blocks", count=1, init="r2r"),
    WidenOutputs("head", 2, init="mean"),
    WidenInputs("embed", 1),
]
OF_CONFIGS = [RepeatKeyValueHeads(2), RepeatExperts(2), AddSharedExpert(1)]
"""What only a config can say."""


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Linear(4, 6), nn.ModuleList([_Block(), _Block()])
        self.tail, self.norm, self.head = _Block(), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(self.tail(x)))


def test_every_kind_of_growth_is_tried() -> None:
    assert {growth.kind for growth in (*GROWTHS, *OF_CONFIGS)} == set(KINDS)


@pytest.mark.parametrize("growth", [*GROWTHS, *OF_CONFIGS], ids=str)
def test_an_average_grows_along_and_keeps_its_function(growth: ModelGrowth) -> None:
    torch.manual_seed(0)
    model = (MixtureNet() if growth in OF_CONFIGS else _Net()).double()
    x = torch.randn(2, 3, 5, dtype=torch.float64) if growth in OF_CONFIGS else X
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    with torch.no_grad():
        for parameter in averaged.module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    before = averaged(x).detach()
    assert not torch.allclose(before, model(x))
    grow(model, growth, example_input=x, mirrors=[averaged.module])
    wider = torch.cat([x, x[:, :1]], 1) if isinstance(growth, WidenInputs) else x
    torch.testing.assert_close(averaged(wider)[:, :3], before, rtol=0, atol=1e-12)
    own, its = model.state_dict(), averaged.module.state_dict()
    assert {name: tensor.shape for name, tensor in own.items()} == {name: tensor.shape for name, tensor in its.items()}
    held = copy.deepcopy(its)
    averaged.update_parameters(model)  # the first one copies, as ever
    averaged.update_parameters(model)
    assert any(not torch.equal(tensor, held[name]) for name, tensor in averaged.module.state_dict().items())
