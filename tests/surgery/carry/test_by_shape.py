"""Optimizers that nobody registered: state of the parameter's shape is carried, other state refused by its name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from graftwork.errors import SurgeryError
from graftwork.surgery import WidenOutputs, deepen, grow, widen

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


class _Own(optim.Optimizer):
    """An optimizer whose state is made by a function of (state, parameter, gradient, step); returns the update."""

    def __init__(self, params: Any, rule: Callable[[dict[str, Any], Tensor, Tensor, int], Tensor]) -> None:
        super().__init__(params, {"lr": 1e-2})
        self.rule = rule

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["step"] = state.get("step", 0) + 1
                p.sub_(group["lr"] * self.rule(state, p, p.grad, state["step"]))


def _mean(state: dict[str, Any], key: str, value: Tensor, rate: float = 0.1) -> Tensor:
    held: Tensor = state.setdefault(key, torch.zeros_like(value))
    return held.lerp_(value, rate)


def _lion(state: dict[str, Any], p: Tensor, g: Tensor, step: int) -> Tensor:
    update = (_mean(state, "exp_avg", g) + g).sign()
    return update + 0.01 * p


def _lamb(state: dict[str, Any], p: Tensor, g: Tensor, step: int) -> Tensor:
    update = _mean(state, "exp_avg", g) / (_mean(state, "exp_avg_sq", g * g, 0.01).sqrt() + 1e-6)
    return update * (p.norm() / update.norm()).clamp(0, 10)


def _adan(state: dict[str, Any], p: Tensor, g: Tensor, step: int) -> Tensor:
    change = g + state.get("neg_pre_grad", -g)
    state["neg_pre_grad"] = -g
    first, second = _mean(state, "exp_avg", g), _mean(state, "exp_avg_diff", change)
    return (first + second) / (_mean(state, "exp_avg_sq", (g + change) ** 2, 0.01).sqrt() + 1e-8)


def _adabelief(state: dict[str, Any], p: Tensor, g: Tensor, step: int) -> Tensor:
    first = _mean(state, "exp_avg", g)
    return first / (_mean(state, "exp_avg_var", (g - first) ** 2, 0.01).sqrt() + 1e-8)


def _schedule_free(state: dict[str, Any], p: Tensor, g: Tensor, step: int) -> Tensor:
    z = state.setdefault("z", p.clone())
    z.sub_(0.01 * g)
    return (p - z) / step


RULES = {"lion": _lion, "lamb": _lamb, "adan": _adan, "adabelief": _adabelief, "schedule-free": _schedule_free}
ZERO = {"exp_avg", "exp_avg_diff", "neg_pre_grad"}


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))


def _train(model: nn.Module, optimizer: optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", RULES)
def test_state_of_the_parameters_shape_is_carried_by_what_it_holds(name: str) -> None:
    model = _model()
    optimizer = _Own(model.parameters(), RULES[name])
    _train(model, optimizer)
    old = {p: {k: v.clone() for k, v in s.items() if isinstance(v, Tensor)} for p, s in optimizer.state.items()}
    receipt = widen(model, "0", extra=4, example_input=X, optimizer=optimizer)
    assert receipt.optimizer_state
    seen = set()
    for parameter, state in old.items():
        for key, before in state.items():
            now = optimizer.state[parameter][key]
            assert now.shape == parameter.shape
            part = tuple(slice(n) for n in before.shape)
            assert torch.equal(now[part], before)
            mask = torch.ones_like(now, dtype=torch.bool)
            mask[part] = False
            if not mask.any():
                continue
            seen.add(key)
            if key == "z":
                assert torch.equal(now[mask], parameter[mask])
            else:
                expected = 0.0 if key in ZERO else before.mean()
                torch.testing.assert_close(now[mask], torch.full_like(now[mask], float(expected)))
    assert seen == set(next(iter(old.values())))
    _train(model, optimizer, 2)


def test_a_new_slot_of_an_unknown_optimizer_first_moves_by_the_rate_at_most() -> None:
    model = _model()
    optimizer = _Own(model.parameters(), _adabelief)
    _train(model, optimizer, 30)
    widen(model, "0", extra=4, example_input=X, optimizer=optimizer, scale=1.0)
    start = model[0].weight.detach().clone()
    _train(model, optimizer, 1)
    assert (model[0].weight - start)[8:].abs().max() <= 1e-2


def test_a_second_moment_that_is_one_number_for_the_whole_tensor_stays_one() -> None:
    def amos(state: dict[str, Any], p: Tensor, g: Tensor, step: int) -> Tensor:
        return g / (_mean(state, "exp_avg_sq", g.square().mean(), 0.01).sqrt() + 1e-8)

    model = _model()
    optimizer = _Own(model.parameters(), amos)
    _train(model, optimizer)
    held = {p: state["exp_avg_sq"].clone() for p, state in optimizer.state.items()}
    widen(model, "0", extra=4, example_input=X, optimizer=optimizer)
    assert all(torch.equal(optimizer.state[p]["exp_avg_sq"], value) for p, value in held.items())
    _train(model, optimizer)


def test_adafactor_of_transformers_keeps_its_means_over_rows_and_columns() -> None:
    adafactor = pytest.importorskip("transformers.optimization").Adafactor
    model = _model()
    optimizer = adafactor(model.parameters(), lr=1e-3, relative_step=False, scale_parameter=False, beta1=0.9)
    _train(model, optimizer)
    old = {k: v.clone() for k, v in optimizer.state[model[2].weight].items() if isinstance(v, Tensor)}
    widen(model, "0", extra=4, example_input=X, optimizer=optimizer)
    new = optimizer.state[model[2].weight]
    assert torch.equal(new["exp_avg_sq_row"], old["exp_avg_sq_row"])
    assert torch.equal(new["exp_avg_sq_col"][:8], old["exp_avg_sq_col"])
    torch.testing.assert_close(new["exp_avg_sq_col"][8:], old["exp_avg_sq_col"].mean().expand(4))
    assert not new["exp_avg"][:, 8:].any()
    _train(model, optimizer, 2)


def test_averages_of_asgd_go_on_as_the_new_weights_and_steps_of_rprop_as_at_first() -> None:
    model = _model()
    average = optim.ASGD(model.parameters(), lr=1e-3, t0=1)
    _train(model, average)
    widen(model, "0", extra=4, example_input=X, optimizer=average)
    assert torch.equal(average.state[model[0].weight]["ax"][8:], model[0].weight[8:])
    model = _model()
    signs = optim.Rprop(model.parameters(), lr=1e-3)
    _train(model, signs, 5)
    grow(model, WidenOutputs("2", 2), example_input=X, optimizer=signs)
    assert bool((signs.state[model[2].weight]["step_size"][4:] == 1e-3).all())


def _blocks(state: dict[str, Any], p: Tensor, g: Tensor, step: int) -> Tensor:
    """As bitsandbytes keeps it: bytes of the parameter's shape, and a scale for each block."""
    state["state1"], state["absmax1"] = g.sign().to(torch.uint8), torch.ones(3)
    return g


def _shampoo(state: dict[str, Any], p: Tensor, g: Tensor, step: int) -> Tensor:
    flat = g.reshape(len(g), -1)
    state["precond_0"] = state.get("precond_0", 0) + flat @ flat.T
    return g


def _lists(state: dict[str, Any], p: Tensor, g: Tensor, step: int) -> Tensor:
    state["history"] = [g]
    return g


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (_blocks, "'state1' is stored as torch.uint8, as quantized state in blocks is"),
        (_shampoo, "'precond_0' has the shape"),
        (_lists, "'history' is a list"),
    ],
)
def test_state_of_another_form_is_refused_by_its_name(rule: Any, reason: str) -> None:
    model = _model()
    optimizer = _Own(model.parameters(), rule)
    _train(model, optimizer, 1)
    weight = model[0].weight.clone()
    with pytest.raises(SurgeryError, match=reason):
        widen(model, "0", extra=4, example_input=X, optimizer=optimizer)
    assert torch.equal(model[0].weight, weight)


class _Around(optim.Optimizer):
    """As Lookahead and schedule-free wrappers do it: an optimizer in another one, with state of its own."""

    def __init__(self, inner: optim.Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.optimizer = inner


class _Shared(_Around):
    """As Accelerate's wrapper does it."""

    state = property(lambda self: self.optimizer.state, lambda self, value: None)  # type: ignore[assignment]


def test_an_optimizer_around_another_is_opened_or_refused_where_it_keeps_state_of_its_own() -> None:
    model = _model()
    inner = optim.AdamW(model.parameters(), lr=1e-2)
    _train(model, inner, 1)
    with pytest.raises(SurgeryError, match=r"_Around can't be carried.*state of its own beside that of the AdamW"):
        widen(model, "0", extra=4, example_input=X, optimizer=_Around(inner))
    assert widen(model, "0", extra=4, example_input=X, optimizer=_Shared(inner)).optimizer_state
    inner.state["averages"] = {}  # type: ignore[index]
    with pytest.raises(SurgeryError, match="'averages' belongs to no parameter"):
        widen(model, "0", extra=4, example_input=X, optimizer=inner)


def test_a_statistic_of_rows_is_not_taken_for_state_of_a_square_weight() -> None:
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    optimizer = _Own(model.parameters(), _shampoo)
    _train(model, optimizer, 1)
    with pytest.raises(SurgeryError, match="symmetric matrix"):
        widen(model, "0", extra=4, example_input=X, optimizer=optimizer)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_new_block_joins_the_group_of_its_neighbours_behind_a_module_without_parameters(reverse: bool) -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
    rates = {0: 1e-5, 2: 1e-4, 4: 1e-2}
    groups: list[dict[str, Any]] = [{"params": list(model[at].parameters()), "lr": lr} for at, lr in rates.items()]
    optimizer = optim.AdamW(groups[::-1] if reverse else groups)
    _train(model, optimizer)
    deepen(model, "3", example_input=X, optimizer=optimizer)
    new = {id(p) for p in model[3].parameters()}
    assert new
    for group in optimizer.param_groups:
        assert {id(p) for p in group["params"]} & new == (new if group["lr"] == 1e-4 else set())
