"""Several members per step: one update that is the mean of theirs, common parts run once."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from graftwork.errors import ConfigError, GraftworkError
from graftwork.genome import TRAINING_FACTOR, num_parameters
from graftwork.mutation import part
from graftwork.population import Population
from graftwork.training import BankOptimizer, Trainer, Update, constant
from graftwork.transforms import Fork
from graftwork.typing import BlockId
from tests.strategies import scramble
from tests.training.small import LEFT, RIGHT, RULES, Setting, bank_of, genome, layer, same, setting, stream

BYSTANDER = genome(layer("other", 6), head="head-other")


def scrambled(rules: str = "adam") -> Setting:
    state = setting(RULES[rules], LEFT, RIGHT, BYSTANDER)
    scramble(state.bank, state.members, torch.Generator().manual_seed(1))
    return state


def gradients(state: Setting, members: list[int], together: bool, **weights: float) -> list[dict[str, torch.Tensor]]:
    """Of one update together, or of each member alone; nothing is moved."""

    class Still(BankOptimizer):
        def step(self, lr_factor: float = 1.0, weight_decay_factor: float = 1.0) -> None:
            """Leave the weights."""

    trainer = Trainer(Still(state.bank, RULES["adam"]), batches=stream(), schedule=constant(), **weights)
    found = []
    for chosen in [members] if together else [[index] for index in members]:
        trainer.step_together([state.members[index] for index in chosen], 3, 0.0)
        found.append({k: p.grad.clone() for k, p, _ in state.bank.parameters() if p.grad is not None})
    return found


@pytest.mark.parametrize("rules", ["adam", "sgd", "muon norm-reset"])
def test_one_member_together_is_a_plain_step_to_the_bit(rules: str) -> None:
    one, other = scrambled(rules), scrambled(rules)
    whole = one.members[0].genome.input_shape[1:]  # a size: by the walk, as several are, not by the member
    for number in range(3):
        alone = one.trainer.step(one.members[0], number, 0.0)
        assert other.trainer.step_together([other.members[0]], number, 0.0, (whole[0], whole[1])) == alone
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
    state.trainer.step_together(state.members[:2], 1, 0.0)
    after = state.snapshot()
    own = [key for key in before if key.split("/")[0] in {"other", "head-other"}]
    assert len(own) > 20
    assert all(torch.equal(before[key], after[key]) for key in own)
    assert not torch.equal(before["root/filter"], after["root/filter"])


def test_what_members_have_in_common_runs_once_forward_and_backward() -> None:
    state, counts = scrambled(), []
    for chosen in ([0], [1], [0, 1]):
        with FlopCounterMode(display=False) as counter:
            state.trainer.step_together([state.members[index] for index in chosen], 0, 0.0)
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
    assert trainer.step_together(state.members[:2], 3, 0.0) == pytest.approx(sum(losses) / 2)
    ratio = (100 / num_parameters(LEFT) + 100 / num_parameters(RIGHT)) / 2
    assert seen == [(pytest.approx(0.5 * ratio), pytest.approx(ratio))]


def setting_loss(state: Setting, index: int) -> float:
    return state.trainer.step(state.members[index], 3, 0.0)


def test_a_broken_member_is_named_and_nothing_moves() -> None:
    state = scrambled()
    with torch.no_grad():
        state.bank[BlockId("head-right")]["bias"].fill_(float("nan"))
    before = {key: value.nan_to_num().clone() for key, value in state.snapshot().items()}
    with pytest.raises(GraftworkError, match=rf"member {RIGHT.id[:8]} is nan at step 2"):
        state.trainer.step_together(state.members[:2], 2, 0.0)
    assert same(before, {key: value.nan_to_num() for key, value in state.snapshot().items()})


def test_a_run_of_updates_is_its_steps_and_its_loss_their_sum() -> None:
    one, other = scrambled(), scrambled()
    updates = [Update((one.members[0],), 0, 0.0), Update(one.members[:2], 1, 0.0)]
    expected = other.trainer.step(other.members[0], 0, 0.0)
    expected += other.trainer.step_together(other.members[:2], 1, 0.0)
    assert one.trainer.run(updates) == expected
    assert same(one.snapshot(), other.snapshot())


def hits_weighted(state: Setting, members: list[int], power: float) -> dict[str, torch.Tensor]:
    """Gradients of one update with co-evolution's weights, written out member by member."""
    x, y = stream().batch(3)
    hits = torch.zeros(len(y))
    total: torch.Tensor = torch.zeros(())
    for index in members:
        logits = state.members[index].train()(x)
        weights = (1 + hits) ** -power
        total = total + (F.cross_entropy(logits, y, reduction="none") * weights / weights.mean()).mean()
        hits = hits + (logits.argmax(1) == y)
    assert 0 < int((hits > 0).sum()) < len(y)
    total.backward()
    found = {key: p.grad.clone() for key, p, _ in state.bank.parameters() if p.grad is not None}
    counts = Counter(key for index in members for key in state.members[index].parameters_by_key())
    return {key: gradient / counts[key] for key, gradient in found.items()}


@pytest.mark.parametrize("members", [[0, 1], [1, 0]])
def test_with_a_hit_power_members_learn_most_from_what_those_before_them_get_wrong(members: list[int]) -> None:
    [weighted] = gradients(scrambled(), members, True, hit_power=2)
    expected = hits_weighted(scrambled(), members, 2)
    assert set(weighted) == set(expected)
    for key, gradient in weighted.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-4, atol=1e-6)
    [plain] = gradients(scrambled(), members, True)
    first, second = ("left", "right") if members == [0, 1] else ("right", "left")
    assert torch.allclose(weighted[f"head-{first}/weight"], plain[f"head-{first}/weight"])
    assert not torch.allclose(weighted[f"head-{second}/weight"], plain[f"head-{second}/weight"], rtol=1e-2)


@pytest.mark.parametrize(("weights", "alike"), [({}, True), ({"vote_weight": 0.5}, True), ({"hit_power": 2.0}, False)])
def test_a_hit_power_parts_copies_that_would_otherwise_stay_alike_and_votes_do_not(
    weights: dict[str, float], alike: bool
) -> None:
    population = Population(bank_of(LEFT))
    parent = population.add_seed(LEFT, generator=torch.Generator().manual_seed(0))
    lines = part(population, [parent], 2, fork=Fork(1), rng=np.random.default_rng(0)).lines
    members = [population[line] for line in lines]
    optimizer = BankOptimizer(population.bank, RULES["adam"])
    trainer = Trainer(optimizer, batches=stream(), schedule=constant(), **weights)
    for number in range(3):
        trainer.step_together(members, number, 0.0)
    heads = [population.bank[member.genome.head.id]["weight"] for member in members]
    assert torch.equal(*heads) == alike


def voted(members: list[int], share: float, power: float, smoothing: float) -> dict[str, torch.Tensor]:
    """Gradients of one update whose members learn from each other, in float64 and written out example by example."""
    state = scrambled()
    for _, parameter, _ in state.bank.parameters():
        parameter.data = parameter.data.double()
    x, y = stream().batch(3)
    logits = [state.members[index].train()(x.double()) for index in members]
    chances = [torch.exp(own - own.logsumexp(1, keepdim=True)) for own in logits]
    total = torch.zeros((), dtype=torch.float64)
    for position, own in enumerate(chances):
        others = [other.detach() for place, other in enumerate(chances) if place != position]
        before = torch.stack([one.argmax(1) == y for one in [torch.zeros_like(own), *logits[:position]]])
        before[0] = False
        weights = (1.0 + before.sum(0)) ** -power
        for row in range(len(y)):
            label = torch.full((own.shape[1],), smoothing / own.shape[1], dtype=torch.float64)
            label[y[row]] += 1 - smoothing
            vote = sum(other[row] for other in others) / len(others)
            target = (1 - share) * label + share * vote
            total = total - (target * own[row].log()).sum() * weights[row] / weights.sum()
    total.backward()
    counts = Counter(key for index in members for key in state.members[index].parameters_by_key())
    return {key: p.grad / counts[key] for key, p, _ in state.bank.parameters() if p.grad is not None}


@pytest.mark.parametrize("members", [[0, 1], [2, 0, 1]])
@pytest.mark.parametrize("power", [0.0, 2.0])
def test_with_a_vote_weight_each_member_learns_from_labels_and_from_the_mean_of_the_others(
    members: list[int], power: float
) -> None:
    [found] = gradients(scrambled(), members, True, vote_weight=0.3, hit_power=power, label_smoothing=0.1)
    expected = voted(members, 0.3, power, 0.1)
    assert set(found) == set(expected)
    [plain] = gradients(scrambled(), members, True, hit_power=power, label_smoothing=0.1)
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, expected[key].float(), rtol=1e-4, atol=1e-6)
    heads = [key for key in found if key.startswith("head-")]
    assert all(not torch.allclose(found[key], plain[key], rtol=1e-2) for key in heads)


def test_the_order_of_voters_changes_nothing_beyond_rounding() -> None:
    [one], [other] = (gradients(scrambled(), order, True, vote_weight=0.6) for order in ([0, 1, 2], [2, 0, 1]))
    assert set(one) == set(other)
    for key, gradient in one.items():
        torch.testing.assert_close(gradient, other[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("members", "share"), [([0, 1], 0.0), ([0], 0.5)])
def test_no_vote_and_a_vote_that_nobody_else_has_change_no_bit(members: list[int], share: float) -> None:
    states = scrambled(), scrambled()
    for state, weights in zip(states, ({}, {"vote_weight": share}), strict=True):
        trainer = Trainer(state.optimizer, batches=stream(), schedule=constant(), **weights)
        for number in range(3):
            trainer.step_together([state.members[index] for index in members], number, 0.0)
    assert same(states[0].snapshot(), states[1].snapshot())


def test_a_loss_that_was_set_is_mixed_with_the_vote() -> None:
    state = scrambled()
    trainer = Trainer(state.optimizer, batches=stream(), schedule=constant(), vote_weight=0.25)
    values = []
    for height in (0.0, 8.0):
        trainer.loss = lambda x, logits, classes, height=height: logits.sum() * 0 + height
        values.append(trainer.step_together(state.members[:2], 3, 0.0, None))
        state = scrambled()
        trainer.optimizer = state.optimizer
    assert values[1] - values[0] == pytest.approx(0.75 * 8)


@pytest.mark.parametrize("weight", [-0.1, 1.0, True])
def test_a_vote_weight_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="vote_weight"):
        Trainer(scrambled().optimizer, batches=stream(), schedule=constant(), vote_weight=weight)
