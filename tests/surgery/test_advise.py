"""A race says whether to grow: it leaves everything as it was, spends equal FLOPs, and sees what capacity is worth."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graftwork as gw
from graftwork.errors import ConfigError, SurgeryError
from graftwork.surgery import Advice

TASK = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def batches(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(32, 8, generator=generator) for _ in range(count)]
    return [(x, x @ TASK) for x in inputs]


def network(width: int) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, width), nn.Dropout(0.0), nn.Linear(width, 4))
    return model, torch.optim.Adam(model.parameters(), lr=0.03)


def trained(width: int, steps: int) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    model, optimizer = network(width)
    for x, y in batches(steps, seed=1):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    return model, optimizer


def advice(model: nn.Module, optimizer: Any, growth: Any = None, **options: Any) -> Advice:
    given = {
        "batches": batches(60, seed=2),
        "held_out": batches(4, seed=3),
        "loss": F.mse_loss,
        "total_steps": 1000,
        "share": 0.06,
        **options,
    }
    return gw.advise(model, growth or gw.Widen("0", extra=2), optimizer=optimizer, **given)


def test_a_network_that_is_too_narrow_to_learn_more_is_told_to_grow() -> None:
    found = advice(*trained(2, 400))  # a map of rank 4 through 2 units
    assert found.verdict == "grow"
    assert found.update_worth * found.step_ratio < 0.5
    assert found.grown < found.continued - 2 * found.error
    assert str(found).startswith("grow: Widen(")


@pytest.mark.parametrize(("steps_done", "verdict"), [(0, "not yet"), (499, "not yet"), (500, "never")])
def test_a_wide_network_that_still_learns_is_not(steps_done: int, verdict: str) -> None:
    found = advice(*network(16), gw.Widen("0", extra=48), steps_done=steps_done)
    assert found.verdict == verdict
    assert found.update_worth * found.step_ratio > 1


def test_both_spend_the_same_flops_and_kappa_is_a_ratio_of_gains() -> None:
    model, optimizer = trained(2, 50)
    found = advice(model, optimizer, gw.Widen("0", extra=4))
    assert found.step_ratio == pytest.approx(3)  # all FLOPs are of the two layers
    assert found.steps == (60, 20)
    gains = (found.loss - found.continued, found.loss - found.grown)
    assert found.update_worth == pytest.approx((gains[0] / 60) / (gains[1] / 20))
    with torch.no_grad():
        before = sum(float(F.mse_loss(model(x), y)) for x, y in batches(4, seed=3)) / 4
    assert found.loss == pytest.approx(before)
    update = 3 * 2 * 32 * (8 * 2 + 2 * 4)
    assert found.flops == pytest.approx(60 * update + 20 * 3 * update + 4 * (2 + 3) * update / 3)


def test_nothing_of_the_training_changes() -> None:
    model, optimizer = trained(2, 20)
    model[1] = nn.Dropout(0.5)  # draws from the global generator
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    random = torch.get_rng_state()
    found = advice(model, optimizer)
    assert advice(model, optimizer) == found
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.grad is not None for p in model.parameters())
    now = optimizer.state_dict()
    assert now["param_groups"] == state["param_groups"]
    assert all(
        torch.equal(slot, state["state"][number][name])
        for number, slots in now["state"].items()
        for name, slot in slots.items()
    )


def test_batches_are_repeated_where_they_are_few_and_one_of_held_out_has_no_noise() -> None:
    found = advice(*trained(2, 400), batches=iter(batches(3, seed=2)), held_out=batches(1, seed=3))
    assert math.isnan(found.error)
    assert found.verdict == "grow"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"share": 0.001}, "share: expected a race of at least 4 updates, got 0.001 of 1000"),
        ({"share": 1.0}, "share: expected a number between 0 and 1"),
        ({"steps_done": 1000}, "steps_done: expected 0 to 999"),
        ({"batches": []}, "batches: expected pairs"),
        ({"held_out": []}, "held_out: expected pairs"),
        ({"growth": gw.Widen("0", extra=98), "share": 0.01}, "at least 4 updates of the grown model"),
    ],
)
def test_races_that_would_say_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        advice(*network(2), **options)


def test_an_optimizer_is_needed_and_a_growth_that_is_refused_stays_so() -> None:
    model, optimizer = network(2)
    with pytest.raises(ConfigError, match="optimizer: expected what trains the model"):
        advice(model, None)
    with pytest.raises(SurgeryError, match="'7'"):
        advice(model, optimizer, gw.Widen("7", extra=1))
    with pytest.raises(SurgeryError, match="loss: expected a function that returns one number"):
        advice(model, optimizer, loss=lambda output, target: output)


def test_a_caller_without_gradients_changes_no_verdict() -> None:
    model, optimizer = trained(2, 50)
    found = advice(model, optimizer)
    with torch.no_grad():
        assert advice(model, optimizer) == found
