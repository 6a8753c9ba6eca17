"""One step of one member."""

import pytest
import torch
from torch.nn import functional as F

from graftwork.errors import ConfigError
from graftwork.networks import bind
from graftwork.networks.genome import num_parameters
from graftwork.training import BankOptimizer, Rule, Trainer, Update, constant, make_schedule, same_rule, shrink
from tests.training.small import LEFT, RULES, bank_of, same, setting, stream


def test_same_seed_same_bits_other_seed_others() -> None:
    one, twin, other = setting(RULES["adam"], seed=3), setting(RULES["adam"], seed=3), setting(RULES["adam"], seed=4)
    assert one.run(range(6)) == twin.run(range(6)) != other.run(range(6))
    assert same(one.snapshot(), twin.snapshot())
    assert not same(one.snapshot(), other.snapshot())


@pytest.mark.parametrize("name", ["adam", "muon scaled", "muon norm-reset"])
def test_training_lowers_the_loss(name: str) -> None:
    state = setting(RULES[name])
    losses = state.run(range(60))
    assert sum(losses[-6:]) < 0.7 * sum(losses[:6])


def test_the_loss_is_cross_entropy_with_smoothing_before_the_update() -> None:
    state = setting(RULES["adam"])
    trainer = Trainer(state.optimizer, batches=stream(), schedule=constant(), label_smoothing=0.2)
    x, y = stream().batch(5)
    expected = F.cross_entropy(state.members[0](x), y, label_smoothing=0.2)
    assert trainer.step(state.members[0], 5, 0.0) == float(expected.detach())


def test_the_loss_weighs_classes_as_asked() -> None:
    state, weights = setting(RULES["adam"]), torch.tensor([4.0, 1.0, 0.5, 2.0])
    state.run(range(3))
    trainer = Trainer(
        state.optimizer, batches=stream(), schedule=constant(), label_smoothing=0.2, class_weights=weights
    )
    x, y = stream().batch(5)
    expected = F.cross_entropy(state.members[0](x), y, weights, label_smoothing=0.2)
    assert trainer.step(state.members[0], 5, 0.0) == float(expected.detach())
    assert abs(expected - F.cross_entropy(state.members[0](x), y, label_smoothing=0.2)) > 1e-3


def test_training_writes_no_running_statistics() -> None:
    state = setting(RULES["adam"])
    before = {key: value.clone() for key, value in state.members[0].state_dict().items()}
    state.run(range(4))
    assert before
    assert same(before, dict(state.members[0].state_dict()))


def test_a_member_left_in_evaluation_mode_is_trained_in_training_mode() -> None:
    one, other = setting(RULES["adam"]), setting(RULES["adam"])
    assert one.run(range(4)) == other.run(range(4))  # fresh twins give zero either way
    one.members[0].eval()
    assert one.run(range(4, 5)) == other.run(range(4, 5))
    assert one.members[0].training


def test_schedule_and_parameter_ratio_scale_rate_and_decay() -> None:
    """α' = α·|θ_reference|/|θ_member|, the same for the decay; the schedule acts on the rate alone."""
    seen: list[tuple[float, float]] = []

    class Spy(BankOptimizer):
        def step(self, lr_factor: float = 1.0, weight_decay_factor: float = 1.0) -> None:
            seen.append((lr_factor, weight_decay_factor))

    state = setting(RULES["adam"])
    reference = num_parameters(LEFT) // 2
    trainer = Trainer(
        Spy(state.bank, RULES["adam"]),
        batches=stream(),
        schedule=make_schedule("linear"),
        lr_scale="parameter-ratio",
        reference_parameters=reference,
    )
    ratio = reference / sum(p.numel() for p in state.members[0].parameters_by_key().values())
    trainer.step(state.members[0], 0, 0.25)
    Trainer(Spy(state.bank, RULES["adam"]), batches=stream(), schedule=make_schedule("linear")).step(
        state.members[0], 0, 0.25
    )
    assert seen == [(pytest.approx(0.75 * ratio), pytest.approx(ratio)), (0.75, 1.0)]
    assert 0.4 < ratio < 0.6


def test_bfloat16_trains_with_float32_weights_moments_and_loss() -> None:
    state = setting(RULES["adam"])
    trainer = Trainer(state.optimizer, batches=stream(), schedule=constant(), precision="bfloat16")
    exact = setting(RULES["adam"]).run(range(1))[0]
    assert trainer.step(state.members[0], 0, 0.0) == pytest.approx(exact, abs=0.05)
    assert {tensor.dtype for tensor in state.snapshot().values()} == {torch.float32}
    assert state.run(range(1, 2))  # and goes on in float32


def test_wrong_options_are_refused() -> None:
    optimizer = BankOptimizer(bank_of(LEFT), same_rule(Rule("adam", 0.01)))
    with pytest.raises(ConfigError, match="reference_parameters"):
        Trainer(optimizer, batches=stream(), schedule=constant(), lr_scale="parameter-ratio")
    with pytest.raises(ConfigError, match="did you mean 'bfloat16'"):
        Trainer(optimizer, batches=stream(), schedule=constant(), precision="bfloat")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="label_smoothing"):
        Trainer(optimizer, batches=stream(), schedule=constant(), label_smoothing=1.0)


def test_small_images_are_shrunk_over_all_pixels_and_train_the_same_tensors() -> None:
    """A step at a smaller size is the step of the network for that size on the shrunk batch."""
    state, other = setting(RULES["adam"]), setting(RULES["adam"])
    x, y = stream().batch(5)
    small = shrink(x, (4, 4))
    assert small.shape == (16, 3, 4, 4)
    assert small.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(small.mean(), x.mean(), atol=0.02)
    loss = state.trainer.run([Update((state.members[0],), 5, 0.0, (4, 4))]).loss
    resized = bind(state.members[0].genome.at_size(4, 4), state.bank)
    twin = bind(other.members[0].genome.at_size(4, 4), other.bank)
    other.optimizer.zero_grad()
    expected = F.cross_entropy(twin(small), y)
    expected.backward()  # type: ignore[no-untyped-call]
    other.optimizer.step()
    assert loss == float(expected.detach())
    assert same(state.snapshot(), other.snapshot())
    assert set(resized.parameters_by_key()) == set(state.members[0].parameters_by_key())
    assert loss != setting(RULES["adam"]).trainer.step(setting(RULES["adam"]).members[0], 5, 0.0)
