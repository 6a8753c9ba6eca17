"""Updates of several members: the mean of theirs, common parts run once."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from graftwork.networks.genome import TRAINING_FACTOR, num_parameters
from graftwork.training import BankOptimizer, Trainer, Update
from tests.strategies import scramble
from tests.training.small import LEFT, RIGHT, RULES, Setting, genome, layer, same, setting, stream

BYSTANDER = genome(layer("other", 6), head="head-other")


def scrambled(rules: str = "adam") -> Setting:
    state = setting(RULES[rules], LEFT, RIGHT, BYSTANDER)
    scramble(state.bank, state.members, torch.Generator().manual_seed(1))
    return state


def update(state: Setting, members: list[int], number: int) -> float:
    return state.trainer.run([Update(tuple(state.members[index] for index in members), number, 0.0)]).loss


def gradients(state: Setting, members: list[int], together: bool) -> list[dict[str, torch.Tensor]]:
    """Of one update together, or of each member alone; nothing is moved."""
    found = []
    for chosen in [members] if together else [[index] for index in members]:
        state.trainer.gradients(Update(tuple(state.members[index] for index in chosen), 3, 0.0))
        found.append({k: p.grad.clone() for k, p, _ in state.bank.parameters() if p.grad is not None})
    return found


@pytest.mark.parametrize("rules", ["adam", "sgd", "muon norm-reset"])
def test_one_member_together_is_a_plain_step_to_the_bit(rules: str) -> None:
    one, other = scrambled(rules), scrambled(rules)
    _, height, width = LEFT.input_shape  # a size: by the walk, as several are, not by the member
    for number in range(3):
        alone = one.trainer.step(one.members[0], number, 0.0)
        assert other.trainer.run([Update((other.members[0],), number, 0.0, (height, width))]).loss == alone
    assert same(one.snapshot(), other.snapshot())


def test_each_tensor_gets_the_mean_gradient_of_the_members_that_bind_it() -> None:
    [together], (left, right) = gradients(scrambled(), [0, 1], True), gradients(scrambled(), [0, 1], False)
    assert set(together) == set(left) | set(right)
    shared = set(left) & set(right)
    assert {key.split("/")[0] for key in shared} == {"root"}
    for key, gradient in together.items():
        expected = (left[key] + right[key]) / 2 if key in shared else {**left, **right}[key]
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
        assert float(expected.abs().max()) > 0


def test_the_order_of_the_members_changes_nothing_beyond_rounding() -> None:
    [one], [other] = gradients(scrambled(), [0, 1], True), gradients(scrambled(), [1, 0], True)
    for key, gradient in one.items():
        torch.testing.assert_close(gradient, other[key], rtol=1e-4, atol=1e-6)


def test_a_member_that_is_not_drawn_stays_bit_identical() -> None:
    state = scrambled()
    state.trainer.step(state.members[2], 0, 0.0)  # so that it has moments that could move
    before = state.snapshot()
    update(state, [0, 1], 1)
    after = state.snapshot()
    own = [key for key in before if key.split("/")[0] in {"other", "head-other"}]
    assert len(own) > 20
    assert all(torch.equal(before[key], after[key]) for key in own)
    assert not torch.equal(before["root/filter"], after["root/filter"])


def test_what_members_have_in_common_runs_once_forward_and_backward() -> None:
    state, counts = scrambled(), []
    for chosen in ([0], [1], [0, 1]):
        with FlopCounterMode(display=False) as counter:
            update(state, chosen, 0)
        counts.append(counter.get_total_flops())
    batch, positions = 16, 64
    # images need no gradient, so the first convolution runs twice, the mixing three times
    common = 2 * batch * positions * (2 * 6 * 3 * 9 + TRAINING_FACTOR * 6 * 6)
    assert counts[2] == counts[0] + counts[1] - common


def test_the_loss_is_the_mean_and_rate_and_decay_take_the_mean_ratio() -> None:
    state, seen = scrambled(), []
    losses = [setting_loss(scrambled(), index) for index in (0, 1)]

    class Spy(BankOptimizer):
        def step(self, lr_factor: float = 1.0, weight_decay_factor: float = 1.0) -> None:
            seen.append((lr_factor, weight_decay_factor))

    trainer = Trainer(
        Spy(state.bank, RULES["adam"]),
        batches=stream(),
        schedule=lambda progress: 0.5,
        lr_scale="parameter-ratio",
        reference_parameters=100,
    )
    assert trainer.run([Update(state.members[:2], 3, 0.0)]).loss == pytest.approx(sum(losses) / 2)
    ratio = (100 / num_parameters(LEFT) + 100 / num_parameters(RIGHT)) / 2
    assert seen == [(pytest.approx(0.5 * ratio), pytest.approx(ratio))]


def setting_loss(state: Setting, index: int) -> float:
    return state.trainer.step(state.members[index], 3, 0.0)


def test_a_run_of_updates_is_its_steps_and_its_loss_their_sum() -> None:
    one, other = scrambled(), scrambled()
    updates = [Update((one.members[0],), 0, 0.0), Update(one.members[:2], 1, 0.0)]
    expected = other.trainer.step(other.members[0], 0, 0.0)
    expected += update(other, [0, 1], 1)
    assert one.trainer.run(updates).loss == expected
    assert same(one.snapshot(), other.snapshot())
