"""One optimizer over the bank: what it moves, what it leaves alone, what it remembers."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from graftwork.errors import BankError, ConfigError, RunError
from graftwork.networks import bind
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.training import ROLES, BankOptimizer, Rule, same_rule
from graftwork.typing import BlockId, Role
from tests.training.small import ADAM, LEFT, RIGHT, ROOT, RULES, bank_of, genome, layer, same, setting

each_rule = pytest.mark.parametrize("name", RULES)


def _block(key: str) -> str:
    return key.split("/", maxsplit=1)[0]


@each_rule
def test_training_one_member_leaves_every_other_tensor_and_slot_bit_identical(name: str) -> None:
    state = setting(RULES[name])
    state.run(range(4))  # all tensors have moments
    before = state.snapshot()
    state.run(range(4, 7), only=0)
    after = state.snapshot()
    assert before.keys() == after.keys()
    foreign = [key for key in before if _block(key) in ("right", "head-right")]
    own = [key for key in before if _block(key) in ("root", "left", "head-left")]
    assert len(foreign) >= 7
    assert all(torch.equal(before[key], after[key]) for key in foreign)
    moved = [key for key in own if not torch.equal(before[key], after[key])]
    assert len(moved) == len(own)


@each_rule
def test_growth_adds_fresh_state_and_leaves_old_moments_bit_identical(name: str) -> None:
    state = setting(RULES[name], LEFT)
    state.run(range(3))
    before = state.snapshot()
    new = grow_bank(state.bank, RIGHT, generator=torch.Generator().manual_seed(5))
    state.optimizer.add(new)
    after = state.snapshot()
    assert same(before, {key: after[key] for key in before})
    assert {_block(key) for key in after if key not in before} == {"right", "head-right"}
    assert not [key for key in after if key not in before and key.count("/") == 2]  # no slots yet


@each_rule
def test_a_grafted_block_learns_every_tensor_moves_and_twin_halves_separate(name: str) -> None:
    state = setting(RULES[name], LEFT)
    state.run(range(3))
    child = genome(ROOT, *LEFT.layers[1:], layer("graft", 8), head="head-left")
    state.optimizer.add(grow_bank(state.bank, child, generator=torch.Generator().manual_seed(5)))
    state.members = (bind(child, state.bank),)
    start = state.snapshot()
    filters = start["graft/filter"]
    assert torch.equal(filters[:3], filters[3:])
    state.run(range(3, 6))
    end = state.snapshot()
    new = [key for key in start if _block(key) == "graft"]
    assert len(new) == 5
    assert all(not torch.equal(start[key], end[key]) for key in new)
    assert float((end["graft/filter"][:3] - end["graft/filter"][3:]).abs().max()) > 1e-4
    assert float((end["graft/mixing"][:, :3] + end["graft/mixing"][:, 3:]).abs().max()) > 1e-6


@each_rule
def test_a_block_that_joins_later_moves_as_under_an_optimizer_of_its_own(name: str) -> None:
    """Appended to a running group it must act as in a fresh optimizer: same first step, no moments of others."""

    def first_step(warm_up: int) -> dict[str, Tensor]:
        bank = bank_of(LEFT)
        optimizer = BankOptimizer(bank, RULES[name])
        for _ in range(warm_up):
            for _, parameter, _ in bank.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        optimizer.add(grow_bank(bank, RIGHT, generator=torch.Generator().manual_seed(5), match_scale=False))
        optimizer.zero_grad()
        for number, (_, parameter, _) in enumerate(bank.parameters()):
            parameter.grad = torch.full_like(parameter, 0.1 + number % 3)
        for _, parameter, _ in bank.parameters(["head-left"]):  # type: ignore[list-item]
            parameter.grad = None
        optimizer.step()
        return {key: tensor.clone() for key, tensor in bank.state().items() if _block(key) in ("right", "head-right")}

    assert same(first_step(0), first_step(3))


def test_one_set_of_moments_per_shared_tensor_whoever_trains_it() -> None:
    """Mistake 2 of the original: M children gave one shared tensor M optimizers, M moments and M decays."""
    state = setting(RULES["adam"])
    state.run(range(6))  # three steps each, both through the shared root
    slots, _ = state.optimizer.state()
    shared = [key for key in slots if key.startswith("root/filter/")]
    assert sorted(shared) == ["root/filter/exp_avg", "root/filter/exp_avg_sq", "root/filter/step"]
    assert float(slots["root/filter/step"]) == 6
    assert float(slots["left/filter/step"]) == float(slots["right/filter/step"]) == 3
    with pytest.raises(BankError, match="one set of moments"):
        state.optimizer.add([BlockId("root")])


def test_two_members_step_a_shared_tensor_exactly_as_torch_adam_over_it_would() -> None:
    state = setting(RULES["adam"])
    parameter = state.bank[BlockId("root")]["filter"]
    twin = torch.nn.Parameter(parameter.detach().clone())
    oracle = torch.optim.Adam([twin], lr=ADAM.lr, weight_decay=ADAM.weight_decay, foreach=False)
    for number in range(4):
        state.run(range(number, number + 1))
        assert parameter.grad is not None
        twin.grad = parameter.grad.clone()
        oracle.step()
    torch.testing.assert_close(parameter, twin, rtol=1e-5, atol=1e-6)


ORACLES: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=1e-2, foreach=False),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2, foreach=False),
    "sgd plain": lambda p: torch.optim.SGD(p, lr=0.05, foreach=False),
}


@pytest.mark.parametrize("name", ORACLES)
def test_every_tensor_moves_as_under_the_plain_torch_optimizer(name: str) -> None:
    """Also guards the fused kernels against tensors that lie channels-last."""
    state = setting(RULES[name])
    mine = [parameter for _, parameter, _ in state.bank.parameters()]
    theirs = [torch.nn.Parameter(parameter.detach().clone().contiguous()) for parameter in mine]
    oracle = ORACLES[name](theirs)
    for number in range(4):
        state.run(range(number, number + 1))
        for one, other in zip(mine, theirs, strict=True):
            other.grad = None if one.grad is None else one.grad.clone().contiguous()
        oracle.step()
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_decoupled_sgd_shrinks_weights_by_rate_times_decay_before_the_step() -> None:
    bank = bank_of(LEFT)
    optimizer = BankOptimizer(bank, same_rule(Rule("sgd", 0.1, weight_decay=0.5, momentum=0.0, decoupled=True)))
    weight = bank[BlockId("left")]["filter"]
    start = weight.detach().clone()
    weight.grad = torch.ones_like(weight)
    optimizer.step(lr_factor=0.5, weight_decay_factor=2.0)
    torch.testing.assert_close(weight.detach(), start * (1 - 0.05 * 1.0) - 0.05)


@each_rule
def test_factors_scale_rate_and_decay_of_one_step_only(name: str) -> None:
    state = setting(RULES[name])
    other = setting(
        {
            role: Rule(**{**rule.to_dict(), "lr": rule.lr * 0.5, "weight_decay": rule.weight_decay * 2})
            for role, rule in RULES[name].items()
        }
    )
    for one, factors in ((state, (0.5, 2.0)), (other, (1.0, 1.0))):
        for _, parameter, _ in one.bank.parameters():
            parameter.grad = torch.ones_like(parameter)
        one.optimizer.step(*factors)
    assert same(state.bank.state(), other.bank.state())


@each_rule
def test_state_round_trip_continues_bit_identically(name: str) -> None:
    whole = setting(RULES[name])
    whole.run(range(8))

    first = setting(RULES[name])
    first.run(range(4))
    tensors, scalars = first.optimizer.state()
    # as a checkpoint would: tensors lose their memory layout, the rest goes through JSON
    stored = {key: value.clone().contiguous() for key, value in tensors.items()}
    weights = {key: value.clone().contiguous() for key, value in first.bank.state().items()}
    scalars = json.loads(json.dumps(scalars))

    bank = BlockBank.from_state(weights, first.bank.layout())
    second = setting(RULES[name], LEFT, RIGHT, bank=bank)
    second.optimizer.load_state(stored, scalars)
    assert same(second.snapshot(), first.snapshot())
    second.run(range(4, 8))
    assert same(second.snapshot(), whole.snapshot())


def test_loading_a_state_drops_the_moments_that_it_does_not_hold() -> None:
    state = setting(RULES["adam"])
    state.run(range(1), only=0)
    tensors, scalars = state.optimizer.state()
    tensors = {key: value.clone() for key, value in tensors.items()}
    state.run(range(1, 3), only=1)
    state.optimizer.load_state(tensors, scalars)
    assert same(tensors, state.optimizer.state()[0])


def test_state_of_other_rules_or_other_tensors_is_refused_and_nothing_changes() -> None:
    state = setting(RULES["adam"])
    state.run(range(2))
    tensors, scalars = state.optimizer.state()
    before = state.snapshot()
    with pytest.raises(RunError, match="other rules"):
        setting(RULES["sgd"]).optimizer.load_state(tensors, scalars)
    for key, value in (
        ("nowhere/filter/step", torch.tensor(1.0)),
        ("root/filter/momentum_buffer", tensors["root/filter/exp_avg"]),
        ("root/filter/exp_avg", torch.zeros(3)),
    ):
        with pytest.raises(RunError, match=key):
            state.optimizer.load_state({**tensors, key: value}, scalars)
    assert same(before, state.snapshot())


@each_rule
def test_forgotten_blocks_have_no_state_and_are_not_moved(name: str) -> None:
    state = setting(RULES[name])
    state.run(range(4))
    doomed = [BlockId("right"), BlockId("head-right")]
    parameter = state.bank[BlockId("right")]["filter"]
    before = parameter.detach().clone()
    state.bank.forget(doomed)
    state.optimizer.forget(doomed)
    slots, _ = state.optimizer.state()
    assert not [key for key in slots if _block(key) in doomed]
    assert not any(parameter in part.state for part in state.optimizer._optimizers.values())
    parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    assert torch.equal(parameter, before)
    with pytest.raises(BankError, match="got 'right'"):
        state.optimizer.forget(doomed)


def test_sync_follows_the_bank_and_drops_moments_of_a_name_that_was_used_before() -> None:
    state = setting(RULES["adam"])
    state.run(range(4))
    state.bank.forget([BlockId("right"), BlockId("head-right")])
    grow_bank(state.bank, RIGHT, generator=torch.Generator().manual_seed(9))
    grow_bank(state.bank, genome(layer("late", 4)), generator=torch.Generator().manual_seed(9))
    state.trainer.sync()
    assert set(state.bank) == {BlockId(key) for key in state.optimizer._entries}
    slots, _ = state.optimizer.state()
    assert {_block(key) for key in slots} == {"root", "left", "head-left"}
    once = {key: value.clone() for key, value in slots.items()}
    state.trainer.sync()
    assert same(once, state.optimizer.state()[0])


def test_frozen_tensors_never_move() -> None:
    bank = bank_of(LEFT)
    bank.freeze(BlockId("root"), "filter")
    optimizer = BankOptimizer(bank, RULES["adam"])
    weight = bank[BlockId("root")]["filter"]
    before = weight.detach().clone()
    for _, parameter, _ in bank.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert torch.equal(weight, before)
    optimizer.copy_block(BlockId("root"), BlockId("copy"))
    assert [name for name, parameter in bank[BlockId("copy")].items() if not parameter.requires_grad] == ["filter"]


def test_rules_must_cover_every_role_and_suit_it() -> None:
    missing: dict[Role, Rule] = {role: ADAM for role in ROLES if role != "norm"}
    with pytest.raises(ConfigError, match="norm"):
        BankOptimizer(BlockBank(), missing)
    with pytest.raises(ConfigError, match=r"muon, which moves matrices only, .* got it for 'head'"):
        BankOptimizer(BlockBank(), {**same_rule(ADAM), "head": Rule("muon", 0.1)})
    with pytest.raises(ConfigError, match="did you mean 'adam'"):
        Rule("adan", 0.1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="did you mean 'momentum'"):
        Rule.from_dict({"optimizer": "sgd", "lr": 0.1, "momentun": 0.9})
    with pytest.raises(ConfigError, match="norm-reset"):
        Rule("muon", 0.1, weight_decay=0.1, variant="norm-reset")


def test_copying_names_a_block_that_is_not_there_and_never_replaces_one() -> None:
    state = setting(RULES["adam"])
    state.run(range(2))
    grow_bank(state.bank, genome(layer("new", 6), head="head-new"), generator=torch.Generator().manual_seed(5))
    before = state.snapshot()
    with pytest.raises(BankError, match=r"got 'new'; sync\(\) adds what is new"):
        state.optimizer.copy_block(BlockId("new"), BlockId("copy"))
    with pytest.raises(BankError, match="never replaced"):
        state.optimizer.copy_block(BlockId("root"), BlockId("left"))
    assert same(before, state.snapshot())
    assert "copy" not in state.optimizer


def test_the_copy_of_a_block_without_moments_has_none_either() -> None:
    state = setting(RULES["adam"])
    state.optimizer.copy_block(BlockId("root"), BlockId("copy"))
    assert state.optimizer.state()[0] == {}
    state.run(range(1))
    assert not any(key.startswith("copy/") for key in state.optimizer.state()[0])
