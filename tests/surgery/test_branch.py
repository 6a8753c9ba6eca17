"""A decay branch finishes a copy: rates fall to zero there, and the training does not notice."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graftwork as gw
from graftwork.errors import ConfigError


def _batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 4, generator=generator), torch.randn(8, 2, generator=generator)) for _ in range(count)]


def _training() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    F.mse_loss(model(_batches(1)[0][0]), _batches(1)[0][1]).backward()
    optimizer.step()
    return model, optimizer


def test_a_branch_trains_with_rates_that_fall_to_zero_and_leaves_the_training_alone() -> None:
    model, optimizer = _training()
    gw.grow(model, gw.Widen("0", extra=2), example_input=_batches(1)[0][0], optimizer=optimizer)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    random = torch.get_rng_state()
    expected, own = copy.deepcopy((model, optimizer))
    for (x, y), rate in zip(_batches(4), [0.1, 0.075, 0.05, 0.025], strict=True):
        own.param_groups[0]["lr"] = rate
        own.zero_grad()
        F.mse_loss(expected(x), y).backward()
        own.step()
    torch.set_rng_state(random)
    found = gw.decay_branch(model, batches=_batches(9), loss=F.mse_loss, optimizer=optimizer, steps=4)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in found.state_dict().items())
    assert gw.surgery.growth_log(found) == gw.surgery.growth_log(model)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert optimizer.state_dict()["param_groups"] == state["param_groups"]
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 3}, "batches: expected 3 pairs"),
        ({"steps": 0}, "steps: expected a number"),
        ({"optimizer": None}, "optimizer: expected what trains the model"),
    ],
)
def test_branches_that_cannot_be_made_are_refused(options: dict[str, Any], said: str) -> None:
    model, optimizer = _training()
    with pytest.raises(ConfigError, match=said):
        gw.decay_branch(
            model, **{"batches": _batches(2), "loss": F.mse_loss, "optimizer": optimizer, "steps": 2, **options}
        )
