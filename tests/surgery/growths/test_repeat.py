"""More heads of keys and values, more experts, and shared ones: as the config counts them."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.surgery import (
    AddSharedExpert,
    RepeatExperts,
    RepeatKeyValueHeads,
    grow,
    load_model,
    plan,
    remove,
    save_model,
    widen_all,
)
from tests.surgery.mixture import MixtureConfig, MixtureNet

X = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _net(**sizes: int) -> MixtureNet:
    torch.manual_seed(0)
    return MixtureNet(MixtureConfig(**sizes)).double()


def _output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(X)  # type: ignore[no-any-return]


def _steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        (model(X) - 1).square().mean().backward()
        optimizer.step()


def _trained(model: nn.Module) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    _steps(model, optimizer, 1)
    return optimizer


# -- heads of keys and values
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2])
def test_copies_of_heads_part_at_the_first_step_and_old_slots_keep_their_bits(heads: int) -> None:
    model = _net(num_key_value_heads=heads)
    optimizer, before = _trained(model), _output(model)
    keys = model.attention.k.weight
    rows, slots = keys.detach().clone(), optimizer.state[keys]["exp_avg"].clone()
    queries = model.attention.q.weight.detach().clone()
    receipt = grow(model, RepeatKeyValueHeads(2), example_input=X, optimizer=optimizer)
    assert receipt.largest_gap <= 1e-14
    torch.testing.assert_close(_output(model), before, rtol=0, atol=1e-14)
    assert torch.equal(model.attention.q.weight, queries)
    copies = keys.detach().clone().view(heads, 2, 2, 8)  # heads × copies × their width × inputs
    assert torch.equal(copies[:, 0], copies[:, 1])
    assert torch.equal(copies[:, 0].reshape(2 * heads, 8), rows)
    held = optimizer.state[keys]["exp_avg"].view(heads, 2, 2, 8)
    assert torch.equal(held[:, 0].reshape(2 * heads, 8), slots)
    _steps(model, optimizer, 1)
    moved = keys.detach().view(heads, 2, 2, 8)
    assert not torch.isclose(moved[:, 0], moved[:, 1]).any()


def test_repeated_heads_are_taken_out_again_and_come_back_from_a_folder(tmp_path: Path) -> None:
    model = _net()
    before = _output(model)
    receipt = grow(model, RepeatKeyValueHeads(2), example_input=X)
    assert (model.config.num_key_value_heads, model.attention.kv_heads) == (4, 4)
    save_model(model, tmp_path)
    built = load_model(lambda: MixtureNet().double(), tmp_path)
    assert torch.equal(_output(built), _output(model))
    assert built.config.num_key_value_heads == 4
    remove(model, receipt, example_input=X)
    assert torch.equal(_output(model), before)
    assert (model.config.num_key_value_heads, model.attention.kv_heads) == (2, 2)


def test_what_no_copies_of_heads_fit_is_refused_with_what_to_use() -> None:
    model = _net(num_key_value_heads=4)
    with pytest.raises(SurgeryError, match=r"expected a divisor of 1, .* axis=0.* both together"):
        plan(model, RepeatKeyValueHeads(2), example_input=X)
    before = _output(model)
    widen_all(model, 2, only="attention.q", axis=0, method="net2net", example_input=X)
    torch.testing.assert_close(_output(model), before, rtol=0, atol=1e-12)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (8, 8)
    with pytest.raises(SurgeryError, match="counts heads of keys and values, got Linear, without a config"):
        plan(nn.Linear(3, 3), RepeatKeyValueHeads(2), example_input=torch.ones(2, 3))
    for factor in (1, 1.5, True):
        with pytest.raises(SurgeryError, match="a whole number above 1"):
            RepeatKeyValueHeads(factor)  # type: ignore[arg-type]


def test_a_model_that_its_config_does_not_build_is_refused() -> None:
    model = _net()
    model.attention.k = nn.Linear(8, 8).double()
    model.attention.v, model.attention.kv_heads = nn.Linear(8, 8).double(), 4
    with pytest.raises(SurgeryError, match="expected a model that its config builds, got one that has grown"):
        plan(model, RepeatKeyValueHeads(2), example_input=X)


# -- experts
# ---------------------------------------------------------------------------------------------------------------


def test_copies_of_experts_part_and_old_slots_keep_their_bits(tmp_path: Path) -> None:
    factor, model = 3, _net()
    optimizer, before, mixture = _trained(model), _output(model), model.mixture
    slots = {p: optimizer.state[p]["exp_avg_sq"].clone() for p in mixture.parameters()}
    up, down, router = mixture.up.detach().clone(), mixture.down.detach().clone(), mixture.router.weight
    receipt = grow(model, RepeatExperts(factor), example_input=X, optimizer=optimizer)
    torch.testing.assert_close(_output(model), before, rtol=0, atol=1e-12)
    assert (mixture.chosen, model.config.num_experts) == (2 * factor, 4 * factor)
    assert all(torch.equal(optimizer.state[p]["exp_avg_sq"][:4], held) for p, held in slots.items())
    assert torch.equal(mixture.up, torch.cat([up] * factor))
    copies = torch.stack(mixture.down.detach().split(4))
    torch.testing.assert_close(copies.mean(0), down)
    assert not torch.isclose(copies[0], copies[1]).any()
    assert torch.equal(router[:4], router[4:8])
    save_model(model, tmp_path)
    assert torch.equal(_output(load_model(lambda: MixtureNet().double(), tmp_path)), _output(model))
    _steps(model, optimizer, 2)
    assert not torch.isclose(router[:4], router[4:8]).all(-1).any()
    with pytest.raises(SurgeryError, match="copies differ by parts"):
        remove(model, receipt, example_input=X)


def test_where_no_expert_weighs_less_for_another_what_copies_write_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "softmax", lambda scores, _dim: scores.sigmoid())
    model = _net()
    before, down = _output(model), model.mixture.down.detach().clone()
    receipt = grow(model, RepeatExperts(2), example_input=X)
    torch.testing.assert_close(_output(model), before, rtol=0, atol=1e-12)
    assert any("is multiplied by 0.5" in note for note in receipt.notes)
    torch.testing.assert_close(model.mixture.down[:4] + model.mixture.down[4:], down)


def test_a_router_with_a_rule_of_its_own_is_refused_and_everything_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies weigh a quarter of what one did, whatever is shared."""
    softmax = Tensor.softmax
    monkeypatch.setattr(Tensor, "softmax", lambda scores, dim: 3 * softmax(scores, dim).square())
    model = _net()
    before, config = copy.deepcopy(model.state_dict()), model.config
    with pytest.raises(NotPreservedError, match="chooses or weighs experts by a rule of its own"):
        grow(model, RepeatExperts(2), example_input=X)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config is config


def test_what_has_no_exact_number_of_experts_is_refused() -> None:
    with pytest.raises(SurgeryError, match="a whole number above 1, as every one gets as many copies"):
        RepeatExperts(1.25)  # type: ignore[arg-type]
    model = _net()
    model.config.output_router_logits = True  # type: ignore[attr-defined]
    with pytest.raises(SurgeryError, match="output_router_logits=False, got True"):
        plan(model, RepeatExperts(2), example_input=X)
    del model.config.output_router_logits, model.config.num_experts_per_tok  # type: ignore[attr-defined]
    with pytest.raises(SurgeryError, match="a config that says how many experts are chosen"):
        plan(model, RepeatExperts(2), example_input=X)


# -- a shared expert
# ------------------------------------------------------------------------------------------------------------


def test_a_shared_expert_starts_at_zero_learns_and_is_taken_out_again(tmp_path: Path) -> None:
    model = _net()
    optimizer, before, names = _trained(model), _output(model), list(model.state_dict())
    receipt = grow(model, AddSharedExpert(2), example_input=X, optimizer=optimizer)
    assert receipt.largest_gap == 0.0
    assert model.mixture.shared[0].out_features == 12  # type: ignore[index]
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == set(map(id, model.parameters()))
    assert list(model.state_dict()) == list(_net(n_shared_experts=2).state_dict())
    save_model(model, tmp_path)
    assert torch.equal(_output(load_model(lambda: MixtureNet().double(), tmp_path)), before)
    trained = copy.deepcopy(model)
    remove(model, receipt, example_input=X, optimizer=optimizer)
    assert (list(model.state_dict()), model.mixture.shared, model.config.n_shared_experts) == (names, None, 0)
    assert torch.equal(_output(model), before)
    assert len(optimizer.param_groups[0]["params"]) == len(names)
    new = {change.name: trained.get_parameter(change.name).detach().clone() for change in receipt.tensors}
    _steps(trained, torch.optim.AdamW(trained.parameters(), lr=1e-2), 2)
    assert all(not torch.equal(trained.get_parameter(name), held) for name, held in new.items())


def test_a_shared_expert_that_is_there_gets_wider() -> None:
    model = _net(n_shared_experts=1)
    with pytest.raises(SurgeryError, match=r"in which n_shared_experts is 0, got 1; graftwork\.WidenAll"):
        plan(model, AddSharedExpert(1), example_input=X)
    before = _output(model)
    widen_all(model, 2, only="*shared*", example_input=X)
    torch.testing.assert_close(_output(model), before, rtol=0, atol=1e-12)
    assert model.config.n_shared_experts == 2


def test_a_config_without_a_number_for_it_is_refused_with_what_to_use() -> None:
    model = _net()
    del model.config.n_shared_experts
    with pytest.raises(SurgeryError, match=r"has a number for shared experts, got MixtureNet; graftwork\.Deepen"):
        plan(model, AddSharedExpert(1), example_input=X)


@pytest.mark.parametrize(
    ("entry", "size"), [("hidden_size", 9), ("n_shared_experts", "9"), ("n_shared_experts", 10**7)], ids=str
)
def test_a_strangers_log_of_a_shared_expert_is_refused(entry: str, size: object) -> None:
    with pytest.raises(SurgeryError, match="growth log: expected"):
        AddSharedExpert(1).rebuild(_net(), {"owner": "", "entry": entry, "size": size})
