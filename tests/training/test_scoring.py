"""Scores depend on genome, weights and calibration images alone."""

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from graftwork.errors import DataError, InputError
from graftwork.metrics import METRICS
from graftwork.networks import Member, bind
from graftwork.networks.bank import grow_bank
from graftwork.networks.execution import InputTransform
from graftwork.networks.genome import Genome, Layer, forward_flops
from graftwork.training import Evaluation, Scorer
from tests.strategies import genomes, grown, scramble, seeds
from tests.training.small import LEFT, RIGHT, ROOT, RULES, TRANSFORM, Setting, genome, images, layer, same, setting


def _scorer(count: int = 45, *, batch_size: int = 20, seed: int = 1, first: int = 500) -> Scorer:
    data, labels = images(count, seed)
    calibration = images(first, seed=2)[0][first - 64 :]
    return Scorer(data, labels, transform=TRANSFORM, calibration=calibration, batch_size=batch_size)


def _trained() -> Setting:
    state = setting(RULES["adam"])
    grandchild = genome(ROOT, *LEFT.layers[1:], layer("late", 8), head="head-left")
    grow_bank(state.bank, grandchild, generator=torch.Generator().manual_seed(3))
    state.trainer.sync()
    state.members = (*state.members, bind(grandchild, state.bank))
    state.run(range(12))
    return state


def _statistics(members: tuple[Member, ...]) -> list[dict[str, torch.Tensor]]:
    return [{key: value.clone() for key, value in member.state_dict().items()} for member in members]


def test_scores_equal_member_by_member_scores_to_the_bit() -> None:
    state, scorer = _trained(), _scorer()
    together, logits = scorer.score(state.members), scorer.logits(state.members)
    assert together.shape == (3, 45)
    for index, member in enumerate(state.members):
        alone = bind(member.genome, state.bank)
        assert np.array_equal(scorer.score([alone])[0], together[index])
        assert torch.equal(scorer.logits([alone])[0], logits[index])


def _plain_logits(member: Member, scorer: Scorer, images_: torch.Tensor) -> torch.Tensor:
    """By the member's own forward in evaluation mode."""
    scorer.recalibrate([member])
    member.eval()
    with torch.no_grad():
        parts = [member(TRANSFORM(images_[start : start + 20])) for start in range(0, len(images_), 20)]
    member.train()
    return torch.cat(parts)


def test_logits_equal_the_members_own_forward_to_the_bit() -> None:
    state, scorer = _trained(), _scorer()
    data, labels = images(45, 1)
    logits = scorer.logits(state.members, data)
    expected = torch.stack([_plain_logits(bind(m.genome, state.bank), scorer, data) for m in state.members])
    assert torch.equal(logits, expected)
    assert np.array_equal(scorer.score(state.members), (expected.argmax(2) == labels).numpy())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(genomes(), seeds, st.data())
def test_random_families_score_as_their_members_alone_in_any_order(
    first: Genome, seed: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    family = [first]
    for number in range(3):  # cousins: blocks added to one layer of a random relative
        parent = data.draw(st.sampled_from(family))
        places = [index for index, item in enumerate(parent.body) if isinstance(item, Layer)]
        place = data.draw(st.sampled_from(places))
        old = parent.body[place]
        assert isinstance(old, Layer)
        new = layer(f"new{number}", old.out_channels, kernel_size=data.draw(st.sampled_from([1, 3])), hidden=4)
        body = (*parent.body[:place], Layer(old.out_channels, (*old.blocks, *new.blocks)), *parent.body[place + 1 :])
        family.append(parent.replace(body=body))
    bank, _ = grown(first, generator)
    for one in family:
        grow_bank(bank, one, generator=generator)
    scramble(bank, [], generator)
    channels, height, width = first.input_shape
    pixels = torch.randint(0, 256, (24, height, width, channels), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, first.num_classes, (12,), generator=generator)
    transform = InputTransform((0.5,) * channels, (0.3,) * channels)
    scorer = Scorer(pixels[:12], labels, transform=transform, calibration=pixels[12:], batch_size=5)
    logits = scorer.logits([bind(one, bank) for one in family])
    order = data.draw(st.permutations(range(4)))
    shuffled = scorer.logits([bind(family[index], bank) for index in order])
    assert torch.equal(shuffled, logits[list(order)])
    for index, one in enumerate(family):
        assert torch.equal(scorer.logits([bind(one, bank)])[0], logits[index])


def test_scoring_leaves_weights_moments_gradients_mode_and_training_unchanged() -> None:
    one, other = _trained(), _trained()
    before = one.snapshot()
    gradients = {key: p.grad.clone() for key, p, _ in one.bank.parameters() if p.grad is not None}
    _scorer().score(one.members)
    assert same(before, one.snapshot())
    assert gradients
    assert same(gradients, {key: p.grad for key, p, _ in one.bank.parameters() if p.grad is not None})
    assert all(member.training for member in one.members)
    assert one.run(range(12, 18)) == other.run(range(12, 18))
    assert same(one.snapshot(), other.snapshot())


def test_scored_images_never_touch_the_statistics() -> None:
    """Mistake 1 of the original: validation data changed running statistics, and those were shared."""
    state = _trained()
    _scorer(seed=1).score(state.members)
    one = _statistics(state.members)
    _scorer(seed=7, count=33, batch_size=7).score(state.members)
    assert all(len(statistics) >= 4 for statistics in one)
    assert all(same(a, b) for a, b in zip(one, _statistics(state.members), strict=True))


def test_the_score_of_an_image_does_not_depend_on_the_other_images() -> None:
    """In training mode it would: the batch's statistics are everyone's. Kernels may round by batch size."""
    state = _trained()
    data, labels = images(40, 1)
    calibration = images(64, 2)[0]
    whole = Scorer(data, labels, transform=TRANSFORM, calibration=calibration, batch_size=40).logits(state.members)
    part = Scorer(data[:8], labels[:8], transform=TRANSFORM, calibration=calibration, batch_size=4)
    torch.testing.assert_close(part.logits(state.members), whole[:, :8], rtol=1e-4, atol=1e-5)


def test_statistics_do_depend_on_the_calibration_images_and_are_repeatable() -> None:
    state = _trained()
    data, labels = images(20, 1)
    found = []
    for seed in (2, 2, 3):
        Scorer(data, labels, transform=TRANSFORM, calibration=images(64, seed)[0]).score(state.members)
        found.append(_statistics(state.members))
    assert all(same(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert not any(same(a, b) for a, b in zip(found[0], found[2], strict=True))


def test_a_read_only_array_scores_as_a_tensor() -> None:
    state = _trained()
    data, labels = images(30, 1)
    frozen = data.numpy().copy()
    frozen.setflags(write=False)
    calibration = images(64, 2)[0]
    expected = Scorer(data, labels, transform=TRANSFORM, calibration=calibration).score(state.members)
    got = Scorer(frozen, labels.numpy(), transform=TRANSFORM, calibration=calibration.numpy()).score(state.members)
    assert np.array_equal(got, expected)


def test_flops_count_shared_prefixes_once() -> None:
    scorer = _scorer()  # 45 images, 64 calibration images
    both, alone = scorer.flops([LEFT, RIGHT]), [scorer.flops([one]) for one in (LEFT, RIGHT)]
    assert alone == [forward_flops(one) * (45 + 64) for one in (LEFT, RIGHT)]
    root = 2 * 6 * (3 * 9 + 6) * 64  # of the shared first layer, for one image
    assert both == sum(alone) - root * (45 + 64)


def test_bfloat16_scores_nearly_as_float32() -> None:
    state = _trained()
    data, labels = images(20, 1)
    calibration = images(64, 2)[0]
    exact = Scorer(data, labels, transform=TRANSFORM, calibration=calibration).logits(state.members)
    half = Scorer(data, labels, transform=TRANSFORM, calibration=calibration, precision="bfloat16")
    logits = half.logits(state.members)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, exact, rtol=0.05, atol=0.05)


def test_wrong_data_are_refused() -> None:
    data, labels = images(10)
    with pytest.raises(DataError, match="10 images and 9 labels"):
        Scorer(data, labels[:9], transform=TRANSFORM, calibration=data)
    with pytest.raises(DataError, match="calibration"):
        Scorer(data, labels, transform=TRANSFORM, calibration=data[:0])


def test_an_evaluation_holds_the_class_of_the_largest_logit_and_what_it_cost() -> None:
    state, scorer = _trained(), _scorer()
    evaluation = scorer.evaluate(state.members)
    assert np.array_equal(evaluation.predicted, scorer.logits(state.members).argmax(2).numpy())
    assert np.array_equal(evaluation.correct, scorer.score(state.members))
    assert evaluation.flops == scorer.flops([member.genome for member in state.members])


def test_every_metric_scores_what_its_name_says() -> None:
    state = _trained()
    data, labels = images(45, 1)
    found = {}
    for metric in METRICS:
        scorer = Scorer(data, labels, transform=TRANSFORM, calibration=images(64, 2)[0], batch_size=20, metric=metric)
        found[metric] = scorer.evaluate(state.members).scores
        shard = scorer.shard(slice(20, 40)).evaluate(state.members)
        assert (shard.metric, shard.log_likelihoods is None) == (metric, False)
    logits = scorer.logits(state.members)
    for row, outputs in enumerate(logits):
        predicted = outputs.argmax(1)
        assert found["accuracy"][row] == float((predicted == labels).double().mean())
        balanced = sklearn.metrics.balanced_accuracy_score(labels, predicted)
        assert found["balanced-accuracy"][row] == pytest.approx(balanced)
        assert found["macro-f1"][row] == pytest.approx(sklearn.metrics.f1_score(labels, predicted, average="macro"))
        assert found["log-loss"][row] == pytest.approx(-float(F.cross_entropy(outputs, labels)), rel=1e-5)


def test_a_log_loss_without_log_likelihoods_is_refused() -> None:
    classes = np.zeros(3, dtype=np.int64)
    with pytest.raises(InputError, match="expected log-likelihoods"):
        _ = Evaluation(classes[None], classes, 0, "log-loss").scores
