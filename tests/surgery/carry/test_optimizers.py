"""Optimizer state through a growth: old slots keep their bits, new slots take no wild first step."""

import copy
from collections.abc import Callable
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
    resume_optimizer,
    widen,
)
from graftwork.surgery._tensors import place_old

from ..models import CASES, batch_of, scrambled

LR = 1e-3
Make = Callable[[Any], optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: optim.SGD(p, lr=LR, momentum=0.9, nesterov=True),
    "plain-sgd": lambda p: optim.SGD(p, lr=LR),
    "adam": lambda p: optim.Adam(p, lr=LR, weight_decay=0.1),
    "amsgrad": lambda p: optim.Adam(p, lr=LR, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, lr=LR, weight_decay=0.0),
    "nadam": lambda p: optim.NAdam(p, lr=LR),
    "radam": lambda p: optim.RAdam(p, lr=LR),
    "adagrad": lambda p: optim.Adagrad(p, lr=LR),
    "rmsprop": lambda p: optim.RMSprop(p, lr=LR, centered=True, momentum=0.9),
    "adamax": lambda p: optim.Adamax(p, lr=LR),
    "adafactor": lambda p: optim.Adafactor(p, lr=LR),
    "adadelta": lambda p: optim.Adadelta(p, lr=1.0),
    "rprop": lambda p: optim.Rprop(p, lr=LR),
    "asgd": lambda p: optim.ASGD(p, lr=LR, t0=2),
}
BOUNDED = ("adam", "amsgrad", "adamw", "nadam", "radam", "adagrad", "rmsprop", "adamax")


def _steps(model: nn.Module, optimizer: optim.Optimizer, x: Tensor, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def _setup(name: str, steps: int) -> tuple[nn.Module, Tensor, optim.Optimizer]:
    model, x = scrambled(CASES[1]).eval(), batch_of(CASES[1])
    optimizer = OPTIMIZERS[name](model.parameters())
    _steps(model, optimizer, x, steps)
    return model, x, optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_old_slots_keep_their_bits_and_training_goes_on(name: str) -> None:
    model, x, optimizer = _setup(name, 3)
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
    _steps(model, optimizer, x, 2)


MOMENTS = {"adam": ["exp_avg_sq"], "amsgrad": ["exp_avg_sq", "max_exp_avg_sq"], "rmsprop": ["square_avg"]}


@pytest.mark.parametrize("name", MOMENTS)
def test_second_moments_of_new_slots_start_at_the_mean_of_the_old_ones_and_first_moments_at_zero(name: str) -> None:
    model, x, optimizer = _setup(name, 3)
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
    model, x, optimizer = _setup(name, 3)
    neighbor = model.features[0].weight
    means = {key: optimizer.state[neighbor][key].mean() for key in MOMENTS[name]}
    deepen(model, "features.0", example_input=x, optimizer=optimizer)
    block = model.features[0].graft0
    for key, mean in means.items():
        assert mean > 0
        torch.testing.assert_close(optimizer.state[block.weight][key], mean.expand_as(block.weight))


@pytest.mark.parametrize("steps", [1, 400])
@pytest.mark.parametrize("name", BOUNDED)
def test_a_new_slot_first_moves_by_the_learning_rate_at_most(name: str, steps: int) -> None:
    model, x, optimizer = _setup(name, 1)
    for state in optimizer.state.values():  # as after many steps near a minimum
        state["step"] = torch.tensor(float(steps))
        for key, value in state.items():
            if key in {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "exp_inf"}:
                value.mul_(1e-12)
            if key == "grad_avg":
                value.mul_(1e-8)
    old_shapes = {name: p.shape for name, p in model.named_parameters()}
    widen(model, "features.0", extra=4, example_input=x, optimizer=optimizer)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    _steps(model, optimizer, x, 1)
    seen = 0
    for n, parameter in model.named_parameters():
        move = (parameter - before[n]).abs()
        new = torch.ones_like(move, dtype=torch.bool)
        new[tuple(slice(0, size) for size in old_shapes[n])] = False
        if new.any():
            assert move[new].max() <= LR * (1.1 if name == "nadam" else 1.0001)
            seen += 1
    assert seen >= 4


def test_two_growths_before_one_step_limit_the_new_slots_of_both() -> None:
    model, x, optimizer = _setup("rmsprop", 1)
    for state in optimizer.state.values():
        state["square_avg"].mul_(1e-12)
        state["grad_avg"].mul_(1e-8)
    widen(model, "features.0", extra=4, example_input=x, optimizer=optimizer)
    widen(model, "features.4", extra=4, example_input=x, optimizer=optimizer)
    weight = model.features[4].weight
    before = weight.detach().clone()
    _steps(model, optimizer, x, 1)
    move = (weight - before).abs()
    move[:8, :6] = 0
    assert 0 < move.max() <= LR * 1.0001


def test_without_the_limit_a_new_slot_would_jump() -> None:
    """The control: the test above can fail."""
    model, x, optimizer = _setup("rmsprop", 1)
    for state in optimizer.state.values():
        state["square_avg"].mul_(1e-12)
        state["grad_avg"].mul_(1e-8)
    widen(model, "features.0", extra=4, example_input=x, optimizer=optimizer)
    optimizer._optimizer_step_pre_hooks.clear()
    weight = model.features[0].weight
    before = weight.detach().clone()
    _steps(model, optimizer, x, 1)
    assert (weight - before).abs()[6:].max() > 2 * LR


@pytest.mark.parametrize("name", BOUNDED)
def test_a_new_block_first_moves_by_the_learning_rate_at_most(name: str) -> None:
    model, x, optimizer = _setup(name, 1)
    for state in optimizer.state.values():
        state["step"] = torch.tensor(400.0)
    deepen(model, "features.0", example_input=x, optimizer=optimizer)
    block = model.features[0].graft0
    before = {n: p.detach().clone() for n, p in block.named_parameters()}
    _steps(model, optimizer, x, 1)
    moves = {n: (p - before[n]).abs().max().item() for n, p in block.named_parameters()}
    assert 0 < max(moves.values()) <= LR * (1.1 if name == "nadam" else 1.0001)


@pytest.mark.parametrize(("carried", "share"), [(True, 0.1), (False, 1.0)])
def test_a_new_block_takes_part_in_the_warm_up_that_the_old_ones_have_had(carried: bool, share: float) -> None:
    """Adam's first update from a step count of zero is the whole rate in every slot: the control."""
    model, x, optimizer = _setup("adamw", 1)
    for state in optimizer.state.values():
        state["step"] = torch.tensor(400.0)
    deepen(model, "features.0", example_input=x, optimizer=optimizer)
    weight = model.features[0].graft0.mix
    assert float(optimizer.state[weight]["step"]) == 400.0
    if not carried:
        optimizer.state.pop(weight)
        optimizer._optimizer_step_pre_hooks.clear()
    before = weight.detach().clone()
    _steps(model, optimizer, x, 1)
    assert (weight - before).abs().max().item() == pytest.approx(share * LR, rel=0.01)


def test_a_new_tensor_without_a_gradient_waits_for_its_first_one() -> None:
    """Behind a batch norm whose scale starts at zero, the filters of a new block have no gradient at first."""
    model, x, optimizer = _setup("adamw", 1)
    for state in optimizer.state.values():
        state["step"] = torch.tensor(400.0)
    deepen(model, "features.0", example_input=x, optimizer=optimizer)
    weight = model.features[0].graft0.weight
    for scale in (0.0, 1.0):
        optimizer.zero_grad()
        (scale * model(x).square().sum()).backward()
        before = weight.detach().clone()
        optimizer.step()
    assert 0 < (weight - before).abs().max() <= 0.1 * LR * 1.01


def _deepened(*, warm: int) -> tuple[nn.Module, Tensor, optim.Optimizer]:
    """A model whose new block has seen so many updates without a gradient."""
    model, x, optimizer = _setup("adamw", 1)
    for state in optimizer.state.values():
        state["step"] = torch.tensor(400.0)
    deepen(model, "features.0", example_input=x, optimizer=optimizer)
    for _ in range(warm):
        optimizer.zero_grad()
        (0.0 * model(x).square().sum()).backward()
        optimizer.step()
    return model, x, optimizer


@pytest.mark.parametrize("by_keyword", [True, False])
def test_gradients_that_a_closure_makes_are_limited_in_the_same_step(by_keyword: bool) -> None:
    """Lightning computes gradients inside ``optimizer.step(closure)``."""
    (one, x, plain), (other, _, closed) = _deepened(warm=0), _deepened(warm=0)

    def closure() -> Tensor:
        closed.zero_grad()
        loss = other(x).square().sum()
        loss.backward()
        return loss

    for _ in range(2):
        _steps(one, plain, x, 1)
        loss = closed.step(closure=closure) if by_keyword else closed.step(closure)
        assert loss is not None
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_a_loaded_optimizer_goes_on_waiting_for_the_first_gradient() -> None:
    """To the bits of the training that was not broken off; without the call the block would start otherwise."""
    (model, x, optimizer), ends = _deepened(warm=2), {}
    for call in (True, False):
        resumed = copy.deepcopy(model)
        loaded = OPTIMIZERS["adamw"](resumed.parameters())
        loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        if call:
            waiting = len(list(resumed.features[0].graft0.parameters()))
            assert (resume_optimizer(loaded), resume_optimizer(loaded)) == (waiting, 0)
        _steps(resumed, loaded, x, 3)
        ends[call] = [p.detach().clone() for p in resumed.parameters()]
        assert resume_optimizer(loaded) == 0
    _steps(model, optimizer, x, 3)
    straight = list(model.parameters())
    assert all(torch.equal(p, q) for p, q in zip(straight, ends[True], strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(straight, ends[False], strict=True))


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
    model, x, optimizer = _setup(name, 2)
    widen(model, "features.0", extra=4, example_input=x, optimizer=optimizer)
    again = OPTIMIZERS[name](model.parameters())
    again.load_state_dict(optimizer.state_dict())
    assert torch.equal(
        place_old(next(iter(again.state.values()))["momentum_buffer" if name == "sgd" else "exp_avg"], []),
        next(iter(optimizer.state.values()))["momentum_buffer" if name == "sgd" else "exp_avg"],
    )


def test_a_learning_rate_schedule_goes_on_through_a_growth() -> None:
    model, x, optimizer = _setup("adamw", 1)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    _steps(model, optimizer, x, 1)
    schedule.step()
    rate = schedule.get_last_lr()
    widen(model, "features.0", extra=4, example_input=x, optimizer=optimizer)
    assert schedule.get_last_lr() == rate
    _steps(model, optimizer, x, 1)
    schedule.step()
    assert schedule.get_last_lr() < rate


def test_rates_are_rescaled_by_the_ratio_of_parameters_only_on_request() -> None:
    model, x, optimizer = _setup("adam", 1)
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


def test_the_limit_of_the_first_step_leaves_old_second_moments_alone() -> None:
    model, x, optimizer = _setup("adamw", 1)
    for state in optimizer.state.values():
        state["exp_avg_sq"].mul_(1e-12)
        state["step"] = torch.tensor(400.0)
    weight = model.features[0].weight
    old = optimizer.state[weight]["exp_avg_sq"].clone()
    widen(model, "features.0", extra=4, example_input=x, optimizer=optimizer)
    _steps(model, optimizer, x, 1)
    expected = 0.999 * old + 0.001 * weight.grad[:6].square()
    assert torch.allclose(optimizer.state[weight]["exp_avg_sq"][:6], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("named", [False, True])
def test_the_state_of_a_deepened_model_loads_into_an_optimizer_made_for_it(named: bool) -> None:
    """By position alone: a block in the middle must not shift the moments of what stands behind it."""

    def optimizer_of(model: nn.Module) -> optim.Optimizer:
        return optim.AdamW(list(model.named_parameters()) if named else model.parameters(), lr=LR)

    model, x = scrambled(CASES[0]).eval(), batch_of(CASES[0])
    optimizer = optimizer_of(model)
    _steps(model, optimizer, x, 2)
    deepen(model, "0", example_input=x, optimizer=optimizer)
    _steps(model, optimizer, x, 2)
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
