"""Laws of widening: the function stays, everything that must grow together does, the control fails."""

import inspect
from typing import Any

import pytest
import torch
from torch import nn

import graftwork.surgery as gw
from graftwork.errors import SurgeryError
from graftwork.numerics import output_gap, tolerance_for
from graftwork.surgery import Widen, growth_sites, plan, widen

from .models import CASES, Case, batch_of, scrambled

SITES = [(case, site) for case in CASES for site in case.widenable]
IDS = [f"{case.name}-{site}" for case, site in SITES]
LARGE = ("recurrent", "resnet")


def _one_a_case(sites: list[tuple[Case, str]]) -> list[Any]:
    """All sites, those after a case's first one marked as slow."""
    return [
        pytest.param(case, site, id=name, marks=[] if site == case.widenable[0] else [pytest.mark.slow])
        for (case, site), name in zip(sites, IDS, strict=True)
    ]


def _smallest(model: nn.Module, x: torch.Tensor, site: str, method: str) -> int:
    step = growth_sites(model, x, method=method)[site].step
    assert step is not None, growth_sites(model, x)[site].refusal
    return step


def test_the_cases_cover_at_least_thirty_sites() -> None:
    assert len(CASES) >= 12
    assert len(SITES) >= 30


@pytest.mark.parametrize(("case", "site"), _one_a_case(SITES))
def test_r2r_keeps_the_function_on_fresh_inputs_and_in_both_modes(case: Case, site: str) -> None:
    model, x = scrambled(case), batch_of(case)
    fresh = batch_of(case, size=3, seed=9)
    before = {mode: _run(model, fresh, mode) for mode in ("eval", "norms")}
    width, extra = growth_sites(model, x)[site].width, 2 * _smallest(model, x, site, "r2r")
    receipt = widen(model, site, extra=extra, example_input=x)
    assert growth_sites(model, x)[site].width == width + extra
    for mode, output in before.items():
        assert output_gap(output, _run(model, fresh, mode)) <= tolerance_for(torch.float64)
    assert receipt.parameters[1] > receipt.parameters[0]
    assert {"evaluation, example", "evaluation, one row"} <= set(receipt.gaps)


@pytest.mark.parametrize("method", ["net2net", "netmorph"])
@pytest.mark.parametrize(("case", "site"), _one_a_case(SITES))
def test_the_other_exact_methods_keep_the_function_too(case: Case, site: str, method: str) -> None:
    model, x = scrambled(case), batch_of(case)
    before = _run(model, x, "eval")
    widen(model, site, extra=_smallest(model, x, site, method), example_input=x, method=method)
    assert output_gap(before, _run(model, x, "eval")) <= tolerance_for(torch.float64)


@pytest.mark.parametrize(("case", "site"), _one_a_case(SITES))
def test_the_control_changes_the_function(case: Case, site: str) -> None:
    model, x = scrambled(case), batch_of(case)
    receipt = widen(
        model,
        site,
        extra=2 * _smallest(model, x, site, "random-padding"),
        example_input=x,
        method="random-padding",
    )
    assert receipt.largest_gap > 1e-3


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_cannot_grow_is_refused_with_a_reason_and_left_alone(case: Case) -> None:
    model, x = scrambled(case), batch_of(case)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for site in case.refused:
        with pytest.raises(SurgeryError, match="can't be widened"):
            widen(model, site, extra=2, example_input=x)
        assert growth_sites(model, x)[site].refusal
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=[pytest.mark.slow] if c.name in LARGE else []) for c in CASES]
)
def test_several_growths_with_training_between_keep_the_function_each_time(case: Case) -> None:
    model, x = scrambled(case), batch_of(case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    grown = 0
    for site in (*case.widenable, *case.widenable[:1]):
        _train(model, optimizer, x)
        before = _run(model, x, "eval")
        widen(model, site, factor=1.3, example_input=x, optimizer=optimizer)
        assert output_gap(before, _run(model, x, "eval")) <= tolerance_for(torch.float64)
        grown += 1
    _train(model, optimizer, x)
    assert grown == len(case.widenable) + 1


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_float32_models_keep_their_function_within_rounding(case: Case) -> None:
    model, x = scrambled(case, dtype=torch.float32), batch_of(case, dtype=torch.float32)
    before = _run(model, x, "eval")
    gw.widen_all(model, 1.5, example_input=x)
    assert output_gap(before, _run(model, x, "eval")) <= tolerance_for(torch.float32)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_new_tensors_learn_and_twins_separate_within_three_steps(case: Case) -> None:
    model, x = scrambled(case), batch_of(case)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    receipt = gw.widen_all(model, 1.5, example_input=x, optimizer=optimizer)
    parameters = dict(model.named_parameters())
    names = [change.name for change in receipt.tensors if change.name in parameters]
    start = {name: parameters[name].detach().clone() for name in names}
    learned = set()
    for _ in range(3):
        _train(model, optimizer, x)
        learned |= {name for name in names if parameters[name].grad is not None and parameters[name].grad.any()}
    moved = {name for name in learned if not torch.equal(start[name], parameters[name])}
    assert moved == learned
    assert len(learned) >= 0.8 * len(names)


def test_twin_channels_differ_after_three_steps() -> None:
    model, x = scrambled(CASES[0]), batch_of(CASES[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    widen(model, "0", extra=4, example_input=x, optimizer=optimizer)
    weight = model[0].weight
    assert torch.equal(weight[7:9], weight[9:11])
    assert torch.equal(model[2].weight[:, 7:9], -model[2].weight[:, 9:11])
    for _ in range(3):
        _train(model, optimizer, x)
    assert (weight[7:9] != weight[9:11]).all()


def test_old_weights_keep_their_bits_and_parameters_their_identity() -> None:
    model, x = scrambled(CASES[1]), batch_of(CASES[1])
    parameters = dict(model.named_parameters())
    old = {name: value.detach().clone() for name, value in parameters.items()}
    widen(model, "features.0", extra=2, example_input=x)
    assert all(parameters[name] is value for name, value in model.named_parameters())
    assert torch.equal(model.features[0].weight[:6], old["features.0.weight"])
    assert torch.equal(model.features[4].weight[:, :6], old["features.4.weight"])


def test_a_plan_prints_every_tensor_with_both_shapes_and_changes_nothing() -> None:
    model, x = scrambled(CASES[2]), batch_of(CASES[2])
    state = {key: value.clone() for key, value in model.state_dict().items()}
    planned = plan(model, Widen("layer1.0.conv1", extra=4), example_input=x)
    text = str(planned)
    assert "layer1.0.conv1.weight" in text
    assert "6×6×3×3 → 10×6×3×3" in text
    assert "layer1.0.conv2.in_channels: 6 → 10" in text
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    planned.apply()
    with pytest.raises(SurgeryError, match="plan again"):
        planned.apply()


def test_a_residual_sum_grows_all_its_producers_and_consumers() -> None:
    model, x = scrambled(CASES[2]), batch_of(CASES[2])
    planned = plan(model, Widen("layer1.0.conv2", extra=2), example_input=x)
    names = {change.name for change in planned.tensors}
    assert {
        "conv1.weight",
        "layer1.0.conv2.weight",
        "layer1.1.conv2.weight",
        "layer2.0.shortcut.0.weight",
    } <= names


def test_a_width_factor_or_number_of_channels_is_given_exactly_once() -> None:
    model, x = scrambled(CASES[0]), batch_of(CASES[0])
    assert widen(model, "0", width=9, example_input=x).log["changes"]["tensors"]["0.weight"] == [9, 5]
    for wrong in ({}, {"extra": 2, "width": 11}, {"extra": -2}, {"factor": 0.5}, {"width": 3}):
        with pytest.raises(SurgeryError):
            plan(model, Widen("0", **wrong), example_input=x)
    with pytest.raises(SurgeryError, match="steps of 2"):
        plan(model, Widen("0", extra=3), example_input=x)
    with pytest.raises(SurgeryError, match="no module or parameter 'nowhere'"):
        plan(model, Widen("nowhere", extra=2), example_input=x)
    with pytest.raises(SurgeryError, match="method"):
        Widen("0", extra=2, method="magic")


def test_the_same_generator_gives_the_same_growth() -> None:
    weights = []
    for seed in (1, 1, 2):
        model, x = scrambled(CASES[0]), batch_of(CASES[0])
        widen(model, "0", extra=2, example_input=x, generator=torch.Generator().manual_seed(seed))
        weights.append(model[0].weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def _run(model: nn.Module, x: torch.Tensor, mode: str) -> torch.Tensor:
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.eval()
    if mode == "norms":
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.train()
    with torch.no_grad():
        result = model(x)
    model.load_state_dict(state)
    return result


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    model.train()
    optimizer.zero_grad()
    output = model(x)
    (output.square().mean() + output.sum() * 0.1).backward()
    optimizer.step()


ACTIVATIONS = {
    "CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "Mish",
    "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign",
    "Tanh", "Tanhshrink",
}  # fmt: skip


FORMS = [
    (name, inplace)
    for name in sorted(ACTIVATIONS)
    for inplace in (False, True)
    if not inplace or "inplace" in inspect.signature(getattr(nn, name)).parameters
]


@pytest.mark.parametrize(("name", "inplace"), FORMS)
def test_every_activation_of_torch_lets_its_producer_be_widened(name: str, inplace: bool) -> None:
    kind = getattr(nn, name)
    activation = kind(inplace=True) if inplace else kind()
    model = nn.Sequential(nn.Conv2d(3, 8, 3), activation, nn.Conv2d(8, 4, 3)).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    before = model(x)
    widen(model, "0", extra=4, example_input=x)
    assert model[0].out_channels == 12
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)
