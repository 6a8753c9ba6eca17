"""Precision is measured and measuring changes nothing."""

import pytest
import torch

from graftwork.machine import _precision as module
from graftwork.machine import calibrate_speed, measure_precision
from graftwork.networks import Member
from graftwork.training import Augmentation, Precision
from tests.training.small import LEFT, RULES, same, setting, stream


def _clock(monkeypatch: pytest.MonkeyPatch, *, products: dict[torch.dtype, float], passes: dict[str, float]) -> None:
    def pass_seconds(member: Member, batch: object, precision: Precision, limit_seconds: float) -> float:
        return passes[precision]

    monkeypatch.setattr(module, "_product_seconds", lambda dtype, device: products[dtype])
    monkeypatch.setattr(module, "_pass_seconds", pass_seconds)


@pytest.mark.parametrize(
    ("half_pass", "half_product", "expected"),
    [(0.5, 1.0, "bfloat16"), (1.0, 1.0, "float32"), (0.97, 1.0, "float32"), (0.1, 100.0, "float32")],
)
def test_the_faster_precision_is_chosen_ties_go_to_float32_and_slow_products_end_the_probe(
    monkeypatch: pytest.MonkeyPatch, half_pass: float, half_product: float, expected: str
) -> None:
    _clock(
        monkeypatch,
        products={torch.float32: 1.0, torch.bfloat16: half_product},
        passes={"float32": 1.0, "bfloat16": half_pass},
    )
    machine = measure_precision(setting(RULES["adam"]).members[0], stream().batch(0))
    assert machine.precision == expected
    assert machine.seconds == {"float32": 1.0} | ({} if half_product > 2 else {"bfloat16": half_pass})
    assert machine.reasons["precision"]
    assert machine.passes == "torch"


def test_measuring_changes_no_weight_gradient_statistic_or_mode() -> None:
    state = setting(RULES["adam"])
    state.run(range(2))
    member = state.members[0]
    member.eval()
    before, buffers = state.snapshot(), {key: value.clone() for key, value in member.state_dict().items()}
    gradients = {key: p.grad.clone() for key, p, _ in state.bank.parameters() if p.grad is not None}
    machine = measure_precision(member, stream().batch(0), limit_seconds=0.02)
    assert machine.seconds["float32"] > 0
    assert not member.training
    assert same(before, state.snapshot())
    assert same(buffers, dict(member.state_dict()))
    assert same(gradients, {key: p.grad for key, p, _ in state.bank.parameters() if p.grad is not None})


def test_speed_is_a_rate_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    speed = calibrate_speed(
        LEFT, rules=RULES["adam"], batch_size=8, augmentation=Augmentation("random", 1), seconds=0.02
    )
    assert 0 < speed < float("inf")
    assert torch.equal(torch.rand(3), expected)
