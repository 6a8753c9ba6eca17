"""Optimizer state through a growth: old slots keep their bits, new ones start as their neighbors would."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from graftwork.errors import SurgeryError
from graftwork.surgery import (
    ParameterGrowth,
    deepen,
    growth_log,
    register_optimizer_carry,
    replay,
    rescale,
    widen,
)
from graftwork.surgery._tensors import place_old
from tests.surgery.carry.made import LR, OPTIMIZERS, train, trained
from tests.surgery.models import CASES, batch_of, scrambled


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_old_slots_keep_their_bits_and_training_goes_on(name: str) -> None:
    model, x, optimizer = trained(name, 3)
    old = {p: {k: v.clone() if isinstance(v, Tensor) else v for k, v in s.items()} for p, s in optimizer.state.items()}
    groups = [list(map(id, group["params"])) for group in optimizer.param_groups]
    receipt = widen(model, "features.0", extra=4, example_input=x, optimizer=optimizer)
    compared = 0
    for parameter, state in old.items():
        for key, value in state.items():
            new = optimizer.state[parameter][key]
            if isinstance(value, Tensor) and value.dim() > 0:
                corner = new[tuple(slice(0, size) for size in value.shape)]
                assert torch.equal(corner, value)
                compared += 1
            else:
                assert value is None or new == value
    assert groups == [list(map(id, group["params"])) for group in optimizer.param_groups]
    assert compared >= (0 if name == "plain-sgd" else 8)
    assert bool(receipt.optimizer_state) == (name != "plain-sgd")
    train(model, optimizer, x, 2)


MOMENTS = {"adam": ["exp_avg_sq"], "amsgrad": ["exp_avg_sq", "max_exp_avg_sq"], "rmsprop": ["square_avg"]}


@pytest.mark.parametrize("name", MOMENTS)
def test_second_moments_of_new_slots_start_at_the_mean_of_the_old_ones_and_first_moments_at_zero(name: str) -> None:
    model, x, optimizer = trained(name, 3)
    weight, conv = model.features[4].weight, model.features[0].weight
    old = {(p, key): optimizer.state[p][key].clone() for p in (weight, conv) for key in MOMENTS[name]}
    widen(model, "features.0", extra=4, example_input=x, optimizer=optimizer)
    for (parameter, key), before in old.items():
        new = torch.ones_like(parameter, dtype=torch.bool)
        new[tuple(slice(0, size) for size in before.shape)] = False
        assert new.any()
        seeded = optimizer.state[parameter][key][new]
        assert before.mean() > 0
        torch.testing.assert_close(seeded, before.mean().expand_as(seeded))
        first = optimizer.state[parameter]["momentum_buffer" if name == "rmsprop" else "exp_avg"]
        assert not first[new].any()


@pytest.mark.parametrize("name", MOMENTS)
def test_second_moments_of_a_new_block_start_at_the_mean_of_its_neighbor(name: str) -> None:
    model, x, optimizer = trained(name, 3)
    neighbor = model.features[0].weight
    means = {key: optimizer.state[neighbor][key].mean() for key in MOMENTS[name]}
    deepen(model, "features.0", example_input=x, optimizer=optimizer)
    block = model.features[0].graft0
    for key, mean in means.items():
        assert mean > 0
        torch.testing.assert_close(optimizer.state[block.weight][key], mean.expand_as(block.weight))


def test_muon_carries_matrices_and_a_second_optimizer_the_rest() -> None:
    model, x = scrambled(CASES[0]), batch_of(CASES[0])
    muon = optim.Muon([p for p in model.parameters() if p.dim() == 2], lr=LR)
    adam = optim.AdamW([p for p in model.parameters() if p.dim() != 2], lr=LR)
    for _ in range(2):
        model(x).sum().backward()
        muon.step()
        adam.step()
    old = muon.state[model[0].weight]["momentum_buffer"].clone()
    widen(model, "0", extra=2, example_input=x, optimizer=[muon, adam])
    assert torch.equal(muon.state[model[0].weight]["momentum_buffer"][:7], old)
    assert adam.state[model[0].bias]["exp_avg"].shape == (9,)


def test_lbfgs_and_foreign_optimizers_are_refused() -> None:
    model, x = scrambled(CASES[0]), batch_of(CASES[0])
    other = nn.Linear(2, 2)
    for wrong, words in (
        (optim.LBFGS(model.parameters()), "curvature pairs"),
        (optim.SGD(other.parameters(), lr=0.1), "holds no parameter"),
        ("adam", r"torch\.optim\.Optimizer"),
    ):
        with pytest.raises(SurgeryError, match=words):
            widen(model, "0", extra=2, example_input=x, optimizer=wrong)


class Signs(optim.Optimizer):
    """A third-party optimizer that keeps the sign of every gradient, in a byte."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["sign"] = p.grad.sign().to(torch.int8)
                p.sub_(group["lr"] * p.grad.sign())


def test_a_third_party_optimizer_takes_part_once_registered() -> None:
    model, x = scrambled(CASES[0]), batch_of(CASES[0])
    optimizer = Signs(model.parameters())
    model(x).sum().backward()
    optimizer.step()
    with pytest.raises(SurgeryError, match="register_optimizer_carry"):
        widen(model, "0", extra=2, example_input=x, optimizer=optimizer)

    def carry(state: dict[str, Any], growth: ParameterGrowth, group: dict[str, Any]) -> dict[str, Any]:
        return {"sign": growth.place(state["sign"])}

    register_optimizer_carry(Signs, carry)
    widen(model, "0", extra=2, example_input=x, optimizer=optimizer)
    assert optimizer.state[model[0].weight]["sign"].shape == (9, 5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_state_dicts_round_trip_after_a_growth(name: str) -> None:
    model, x, optimizer = trained(name, 2)
    widen(model, "features.0", extra=4, example_input=x, optimizer=optimizer)
    again = OPTIMIZERS[name](model.parameters())
    again.load_state_dict(optimizer.state_dict())
    assert torch.equal(
        place_old(next(iter(again.state.values()))["momentum_buffer" if name == "sgd" else "exp_avg"], []),
        next(iter(optimizer.state.values()))["momentum_buffer" if name == "sgd" else "exp_avg"],
    )


def test_a_learning_rate_schedule_goes_on_through_a_growth() -> None:
    model, x, optimizer = trained("adamw", 1)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    train(model, optimizer, x, 1)
    schedule.step()
    rate = schedule.get_last_lr()
    widen(model, "features.0", extra=4, example_input=x, optimizer=optimizer)
    assert schedule.get_last_lr() == rate
    train(model, optimizer, x, 1)
    schedule.step()
    assert schedule.get_last_lr() < rate


def test_rates_are_rescaled_by_the_ratio_of_parameters_only_on_request() -> None:
    model, x, optimizer = trained("adam", 1)
    schedule = optim.lr_scheduler.StepLR(optimizer, 5)
    receipt = widen(model, "features.0", extra=4, example_input=x, optimizer=optimizer)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (LR, 0.1)
    ratio = rescale(optimizer, receipt.parameters, schedulers=[schedule])
    assert ratio == receipt.parameters[0] / receipt.parameters[1] < 1
    assert (group["lr"], group["initial_lr"], group["weight_decay"]) == (LR * ratio, LR * ratio, 0.1 * ratio)
    assert schedule.base_lrs == [LR * ratio]
    with pytest.raises(SurgeryError, match="before and after"):
        rescale(optimizer, (5, 3))


@pytest.mark.parametrize("named", [False, True])
def test_the_state_of_a_deepened_model_loads_into_an_optimizer_made_for_it(named: bool) -> None:
    """By position alone: a block in the middle must not shift the moments of what stands behind it."""

    def optimizer_of(model: nn.Module) -> optim.Optimizer:
        return optim.AdamW(list(model.named_parameters()) if named else model.parameters(), lr=LR)

    model, x = scrambled(CASES[0]).eval(), batch_of(CASES[0])
    optimizer = optimizer_of(model)
    train(model, optimizer, x, 2)
    deepen(model, "0", example_input=x, optimizer=optimizer)
    train(model, optimizer, x, 2)
    again = CASES[0].build().double()
    replay(again, growth_log(model))
    resumed = optimizer_of(again)
    assert not named or resumed.param_groups[0]["param_names"] == optimizer.param_groups[0]["param_names"]
    resumed.load_state_dict(optimizer.state_dict())
    compared = 0
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(resumed.state[ours]["exp_avg"], optimizer.state[theirs]["exp_avg"])
        compared += 1
    assert compared == 9


def test_new_parameters_go_to_the_end_of_a_group_with_an_order_of_its_own() -> None:
    model, x = scrambled(CASES[0]), batch_of(CASES[0])
    backwards = list(model.parameters())[::-1]
    optimizer = optim.AdamW(backwards, lr=LR)
    deepen(model, "0", example_input=x, optimizer=optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"][: len(backwards)]] == [id(p) for p in backwards]
