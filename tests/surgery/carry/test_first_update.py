"""New slots and blocks take no wild first step, whatever the optimizer remembers."""

import copy

import pytest
import torch
from torch import Tensor, nn, optim

from graftwork.surgery import deepen, resume_optimizer, widen
from tests.surgery.carry.made import LR, OPTIMIZERS, train, trained

BOUNDED = ("adam", "amsgrad", "adamw", "nadam", "radam", "adagrad", "rmsprop", "adamax")


@pytest.mark.parametrize("steps", [1, 400])
@pytest.mark.parametrize("name", BOUNDED)
def test_a_new_slot_first_moves_by_the_learning_rate_at_most(name: str, steps: int) -> None:
    model, x, optimizer = trained(name, 1)
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
    train(model, optimizer, x, 1)
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
    model, x, optimizer = trained("rmsprop", 1)
    for state in optimizer.state.values():
        state["square_avg"].mul_(1e-12)
        state["grad_avg"].mul_(1e-8)
    widen(model, "features.0", extra=4, example_input=x, optimizer=optimizer)
    widen(model, "features.4", extra=4, example_input=x, optimizer=optimizer)
    weight = model.features[4].weight
    before = weight.detach().clone()
    train(model, optimizer, x, 1)
    move = (weight - before).abs()
    move[:8, :6] = 0
    assert 0 < move.max() <= LR * 1.0001


def test_without_the_limit_a_new_slot_would_jump() -> None:
    """The control: the test above can fail."""
    model, x, optimizer = trained("rmsprop", 1)
    for state in optimizer.state.values():
        state["square_avg"].mul_(1e-12)
        state["grad_avg"].mul_(1e-8)
    widen(model, "features.0", extra=4, example_input=x, optimizer=optimizer)
    optimizer._optimizer_step_pre_hooks.clear()
    weight = model.features[0].weight
    before = weight.detach().clone()
    train(model, optimizer, x, 1)
    assert (weight - before).abs()[6:].max() > 2 * LR


@pytest.mark.parametrize("name", BOUNDED)
def test_a_new_block_first_moves_by_the_learning_rate_at_most(name: str) -> None:
    model, x, optimizer = trained(name, 1)
    for state in optimizer.state.values():
        state["step"] = torch.tensor(400.0)
    deepen(model, "features.0", example_input=x, optimizer=optimizer)
    block = model.features[0].graft0
    before = {n: p.detach().clone() for n, p in block.named_parameters()}
    train(model, optimizer, x, 1)
    moves = {n: (p - before[n]).abs().max().item() for n, p in block.named_parameters()}
    assert 0 < max(moves.values()) <= LR * (1.1 if name == "nadam" else 1.0001)


@pytest.mark.parametrize(("carried", "share"), [(True, 0.1), (False, 1.0)])
def test_a_new_block_takes_part_in_the_warm_up_that_the_old_ones_have_had(carried: bool, share: float) -> None:
    """Adam's first update from a step count of zero is the whole rate in every slot: the control."""
    model, x, optimizer = trained("adamw", 1)
    for state in optimizer.state.values():
        state["step"] = torch.tensor(400.0)
    deepen(model, "features.0", example_input=x, optimizer=optimizer)
    weight = model.features[0].graft0.mix
    assert float(optimizer.state[weight]["step"]) == 400.0
    if not carried:
        optimizer.state.pop(weight)
        optimizer._optimizer_step_pre_hooks.clear()
    before = weight.detach().clone()
    train(model, optimizer, x, 1)
    assert (weight - before).abs().max().item() == pytest.approx(share * LR, rel=0.01)


def test_a_new_tensor_without_a_gradient_waits_for_its_first_one() -> None:
    """Behind a batch norm whose scale starts at zero, the filters of a new block have no gradient at first."""
    model, x, optimizer = trained("adamw", 1)
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
    model, x, optimizer = trained("adamw", 1)
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
        train(one, plain, x, 1)
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
        train(resumed, loaded, x, 3)
        ends[call] = [p.detach().clone() for p in resumed.parameters()]
        assert resume_optimizer(loaded) == 0
    train(model, optimizer, x, 3)
    straight = list(model.parameters())
    assert all(torch.equal(p, q) for p, q in zip(straight, ends[True], strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(straight, ends[False], strict=True))


def test_the_limit_of_the_first_step_leaves_old_second_moments_alone() -> None:
    model, x, optimizer = trained("adamw", 1)
    for state in optimizer.state.values():
        state["exp_avg_sq"].mul_(1e-12)
        state["step"] = torch.tensor(400.0)
    weight = model.features[0].weight
    old = optimizer.state[weight]["exp_avg_sq"].clone()
    widen(model, "features.0", extra=4, example_input=x, optimizer=optimizer)
    train(model, optimizer, x, 1)
    expected = 0.999 * old + 0.001 * weight.grad[:6].square()
    assert torch.allclose(optimizer.state[weight]["exp_avg_sq"][:6], expected, rtol=1e-9, atol=0)
