"""Combiners and the Ensemble module: contract over all methods, laws, the original's batch-dimension bug."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.ensembles import (
    COMBINERS,
    Combiner,
    Ensemble,
    MeanCombiner,
    NetworkCombiner,
    NetworkSettings,
    TemperatureCombiner,
    combiner_from,
    describe_combiner,
    fit_combiner,
    fit_network,
    fit_temperature,
    mean_probabilities,
)
from graftwork.ensembles._folds import deal_folds
from graftwork.ensembles._linear import STRENGTHS, _solve
from graftwork.errors import ConfigError, InputError, RunError

every_method = pytest.mark.parametrize("method", sorted(COMBINERS))
calibrated_or_not = pytest.mark.parametrize("calibrated", [False, True])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blend(seed: int = 0, num_members: int = 3, num_examples: int = 120) -> tuple[Tensor, Tensor]:
    """Logits [example, member, class] of members that are each good at some classes."""
    labels = torch.randint(4, (num_examples,), generator=generator(seed))
    logits = torch.randn(num_examples, num_members, 4, generator=generator(seed + 1))
    skill = 3 * torch.rand(num_members, 4, generator=generator(seed + 2))
    return logits + skill[:, labels].T[:, :, None] * F.one_hot(labels, 4)[:, None], labels


def fit_anew(method: str, *, calibrated: bool = False, seed: int = 0, num_members: int = 3) -> Combiner:
    outputs, labels = blend(num_members=num_members)
    options = {"max_epochs": 5} if method == "stacked-network" else {}
    return fit_combiner(method, outputs, labels, generator=generator(seed), calibrated=calibrated, **options).combiner


fit = cache(fit_anew)


@every_method
@calibrated_or_not
def test_every_combiner_gives_probabilities_and_is_frozen(method: str, calibrated: bool) -> None:
    combiner = fit(method, calibrated=calibrated)
    log_probabilities = combiner(blend(seed=5)[0])
    assert log_probabilities.shape == (120, 4)
    torch.testing.assert_close(log_probabilities.exp().sum(dim=1), torch.ones(120))
    assert not log_probabilities.requires_grad
    assert not combiner.training


@every_method
@calibrated_or_not
def test_row_i_depends_on_example_i_alone(method: str, calibrated: bool) -> None:
    """The original concatenated along the batch: a row held four examples of one model."""
    combiner = fit(method, calibrated=calibrated)
    outputs = blend(seed=5, num_examples=12)[0]
    together = combiner(outputs)
    for example in range(12):
        disturbed = torch.randn(12, 3, 4, generator=generator(9))
        disturbed[example] = outputs[example]
        torch.testing.assert_close(combiner(disturbed)[example], together[example], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(combiner(outputs[example : example + 1])[0], together[example])
    order = torch.randperm(12, generator=generator(3))
    torch.testing.assert_close(combiner(outputs[order]), together[order])


@every_method
def test_every_member_can_change_the_prediction_of_a_combiner(method: str) -> None:
    combiner = fit(method)
    outputs = blend(seed=5)[0]
    used = 0
    for member in range(3):
        changed = outputs.clone()
        changed[:, member] = -changed[:, member]
        used += not torch.allclose(combiner(changed), combiner(outputs))
    assert used >= 1 if method in ("greedy", "cascade") else used == 3


@every_method
@calibrated_or_not
def test_the_same_generator_gives_the_same_combiner_and_the_global_one_is_left_alone(
    method: str, calibrated: bool
) -> None:
    before = torch.get_rng_state()
    first, second = (made(method, calibrated=calibrated).state_dict() for made in (fit, fit_anew))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    if method == "stacked-network":
        other = fit(method, calibrated=calibrated, seed=1).state_dict()
        assert not all(torch.equal(first[name], other[name]) for name in first)


@every_method
@calibrated_or_not
def test_a_combiner_survives_json_and_tensors_bit_for_bit(method: str, calibrated: bool) -> None:
    combiner = fit(method, calibrated=calibrated)
    description = json.loads(json.dumps(describe_combiner(combiner)))
    tensors = {name: tensor.clone() for name, tensor in combiner.state_dict().items()}
    again = combiner_from(description, tensors)
    outputs = blend(seed=5)[0]
    assert torch.equal(again(outputs), combiner(outputs))
    assert describe_combiner(again) == description


@pytest.mark.parametrize("method", sorted(COMBINERS.keys() - {"cascade"}))  # whose members are calibrated
def test_calibration_keeps_every_prediction(method: str) -> None:
    outputs = blend(seed=5)[0]
    plain, calibrated = fit(method), fit(method, calibrated=True)
    assert isinstance(calibrated, TemperatureCombiner)
    assert torch.equal(plain(outputs).argmax(dim=1), calibrated(outputs).argmax(dim=1))


def test_a_temperature_is_fitted_on_held_out_predictions() -> None:
    outputs, labels = blend()
    options = {"residual": False}
    plain = fit_combiner("stacked-network", outputs, labels, generator=generator(), **options)
    found = fit_combiner("stacked-network", outputs, labels, generator=generator(), calibrated=True, **options).combiner
    assert isinstance(found, TemperatureCombiner)
    expected = fit_temperature(plain.held_out.double().numpy(), labels.numpy())
    assert float(found.temperature) == pytest.approx(expected)
    assert fit_temperature(plain.combiner(outputs).double().numpy(), labels.numpy()) < 0.98 * expected


@pytest.mark.parametrize("method", ["mean", "greedy"])
def test_an_ensemble_of_one_is_that_member(method: str) -> None:
    outputs = blend(seed=5, num_members=1)[0]
    assert torch.equal(fit(method, num_members=1)(outputs), F.log_softmax(outputs[:, 0], dim=1))


def test_the_mean_combiner_is_the_mean_of_the_arrays_whatever_the_order_of_members() -> None:
    outputs = blend(seed=5)[0]
    probabilities = F.softmax(outputs.double(), dim=2).numpy()
    combined = fit("mean")(outputs).exp()
    np.testing.assert_allclose(combined.numpy(), mean_probabilities(probabilities), rtol=1e-5)
    torch.testing.assert_close(fit("mean")(outputs[:, [2, 0, 1]]).exp(), combined)
    weighted = MeanCombiner([1, 0, 3])(outputs).exp()
    expected = mean_probabilities(probabilities, np.array([1, 0, 3]))
    np.testing.assert_allclose(weighted.numpy(), expected, rtol=1e-5)


def log_mean(outputs: Tensor) -> Tensor:
    return F.log_softmax(F.log_softmax(outputs, dim=2).mean(dim=1), dim=1)


def test_a_network_starts_as_the_mean_of_log_probabilities_and_all_of_it_learns_at_once() -> None:
    outputs, labels = blend()
    fresh = NetworkCombiner(3, 4, num_classes=4, residual=True, generator=generator())
    torch.testing.assert_close(fresh(outputs), log_mean(outputs))
    F.nll_loss(fresh(outputs), labels).backward()
    assert all((parameter.grad != 0).any() for parameter in fresh.parameters())


def test_a_stacker_learns_which_member_to_believe() -> None:
    """One member is right nine times in ten and modest, the other guesses and is sure of itself."""
    labels = torch.randint(4, (900,), generator=generator())
    guesses = torch.randint(4, (900, 2), generator=generator(1))
    guesses[torch.rand(900, generator=generator(2)) < 0.87, 0] = -1
    guesses[:, 0] = torch.where(guesses[:, 0] < 0, labels, guesses[:, 0])
    outputs = F.one_hot(guesses, 4) * torch.tensor([2.0, 9.0])[:, None]
    accuracies = {}
    for method in COMBINERS:
        combiner = fit_combiner(method, outputs[:600], labels[:600], generator=generator()).combiner
        accuracies[method] = float((combiner(outputs[600:]).argmax(dim=1) == labels[600:]).float().mean())
    assert accuracies.pop("mean") < 0.4
    assert min(accuracies.values()) > 0.85


def test_logistic_regression_is_that_of_scikit_learn_of_the_likeliest_strength() -> None:
    outputs, labels = blend(num_examples=60)
    found = fit_combiner("stacked", outputs, labels, generator=generator()).combiner
    rows = F.log_softmax(outputs.double(), dim=2).flatten(1).numpy()
    folds = PredefinedSplit(deal_folds(labels, generator()).numpy())
    gaps, scores = [], []
    for strength in STRENGTHS:
        oracle = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        scores.append(cross_val_score(oracle, rows, labels, cv=folds, scoring="neg_log_loss").mean())
        expected = oracle.fit(rows, labels.numpy()).predict_log_proba(rows)
        gaps.append(np.abs(found(outputs).numpy() - expected).max())
    assert min(gaps) < 1e-3 < sorted(gaps)[1]
    assert np.argmin(gaps) == np.argmax(scores)


@pytest.mark.parametrize("num_examples", [12, 63])
def test_folds_have_their_share_of_every_class(num_examples: int) -> None:
    labels = torch.randint(4, (num_examples,), generator=generator())
    folds = deal_folds(labels, generator(1))
    counts = torch.stack([torch.bincount(folds[labels == label], minlength=5) for label in range(4)])
    assert int((counts.amax(dim=1) - counts.amin(dim=1)).max()) <= 1
    assert int(counts.sum(dim=0).max() - counts.sum(dim=0).min()) <= 1


@pytest.mark.parametrize("num_examples", [10, 40])
@pytest.mark.parametrize("method", ["stacked", "stacked-network"])
def test_a_stacker_is_never_worse_than_the_mean_on_held_out_examples(method: str, num_examples: int) -> None:
    for seed in range(2):
        labels = torch.arange(num_examples) % 4
        outputs = 2 * torch.randn(num_examples, 3, 4, generator=generator(seed)) + F.one_hot(labels, 4)[:, None]
        fit = fit_combiner(method, outputs, labels, generator=generator(seed))
        assert fit.held_out_nll(labels) <= float(F.nll_loss(log_mean(outputs), labels)) + 1e-6


@pytest.mark.parametrize("method", ["stacked", "stacked-network"])
def test_where_there_is_nothing_to_learn_a_stacker_is_the_mean_of_log_probabilities(method: str) -> None:
    """All members say exactly how likely each class is."""
    outputs = 2 * torch.randn(60, 1, 4, generator=generator(1)).expand(-1, 3, -1)
    labels = torch.multinomial(outputs[:, 0].softmax(dim=1), 1, generator=generator())[:, 0]
    options = {"learning_rate": 1.0} if method == "stacked-network" else {}  # every epoch harms
    fit = fit_combiner(method, outputs, labels, generator=generator(), **options)
    torch.testing.assert_close(fit.combiner(outputs), log_mean(outputs))
    torch.testing.assert_close(fit.held_out, log_mean(outputs))


def test_stacking_does_not_depend_on_the_number_of_threads() -> None:
    rows, labels = torch.randn(1880, 30, generator=generator()).double().numpy(), np.arange(1880) % 10
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(_solve(rows, labels, 0.01, None))
    assert all(map(np.array_equal, *found))


def test_rare_classes_count_as_much_as_others_where_classes_are_weighed() -> None:
    """Nothing tells 9 examples in 10 from the others: weighed, both classes are equally likely."""
    labels = (torch.arange(200) % 10 == 0).long()
    noise = torch.randn(200, 2, 2, generator=generator(1))
    weights = len(labels) / (2 * torch.bincount(labels).float())
    for method in ("stacked", "stacked-network"):
        for given, low, high in ((None, 0.05, 0.2), (weights, 0.35, 0.65)):
            fit = fit_combiner(method, noise, labels, generator=generator(), class_weights=given)
            assert low < float(fit.combiner(noise).exp()[:, 1].mean()) < high, (method, given)


def test_a_stack_keeps_the_epoch_whose_held_out_likelihood_is_best() -> None:
    labels = torch.randint(4, (60,), generator=generator())
    noise = torch.randn(60, 3, 4, generator=generator(1))  # nothing to learn: training longer only harms
    settings = NetworkSettings(max_epochs=40, patience=4, learning_rate=0.01)
    result = fit_network(noise, labels, num_classes=4, generator=generator(), settings=settings)
    assert result.num_epochs == int(np.argmin(result.held_out_nll))
    assert len(result.held_out_nll) <= result.num_epochs + 5
    assert float(F.nll_loss(result.held_out, labels)) == pytest.approx(min(result.held_out_nll), rel=1e-5)


def test_held_out_predictions_come_from_models_that_never_saw_the_example() -> None:
    """With labels that are pure chance, honest predictions can't be right more often than chance."""
    labels = torch.randint(2, (400,), generator=generator())
    noise = torch.randn(400, 3, 2, generator=generator(1))
    settings = NetworkSettings(residual=False, max_epochs=60, patience=60, learning_rate=0.01, batch_size=64)
    result = fit_network(noise, labels, num_classes=2, generator=generator(), settings=settings)
    assert float((result.held_out.argmax(dim=1) == labels).float().mean()) < 0.6  # four standard deviations
    assert result.held_out_nll[-1] > result.held_out_nll[result.num_epochs]  # it did overfit


class _Member(nn.Module):
    """A linear member with a dropout that must never be active."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(8, 4, generator=generator(seed)))
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(images.flatten(1)) @ self.weight


def test_an_ensemble_runs_its_members_frozen_and_combines_them() -> None:
    members = [_Member(seed) for seed in range(3)]
    ensemble = Ensemble(members, fit("stacked")).train()
    images = torch.randn(5, 2, 2, 2, generator=generator(4))
    outputs = torch.stack([images.flatten(1) @ member.weight for member in members], dim=1)
    torch.testing.assert_close(ensemble.outputs(images), outputs)
    torch.testing.assert_close(ensemble(images), ensemble.combiner(outputs))
    torch.testing.assert_close(ensemble.predict_probabilities(images).sum(dim=1), torch.ones(5))
    assert ensemble.combiner.training
    assert not any(member.training for member in members)
    assert ensemble.num_members == 3
    assert "members.2.weight" in ensemble.state_dict()


def test_an_ensemble_takes_plain_functions_and_a_shared_way_to_run_them_all() -> None:
    functions = [lambda images, k=k: images.flatten(1)[:, :4] * k for k in range(3)]
    images = torch.randn(5, 2, 2, 2, generator=generator(4))
    naive = Ensemble(functions, fit("mean"))
    shared = Ensemble(
        functions,
        fit("mean"),
        run_all=lambda images: images.flatten(1)[:, None, :4] * torch.arange(3)[:, None],
    )
    assert torch.equal(naive(images), shared(images))


def test_an_ensemble_exports_as_one_program() -> None:
    ensemble = Ensemble([_Member(seed) for seed in range(3)], fit("stacked"))
    images = torch.randn(5, 2, 2, 2, generator=generator(4))
    program = torch.export.export(ensemble, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    torch.testing.assert_close(program.module()(images[:3]), ensemble(images[:3]))


def test_methods_and_options_that_do_not_exist_are_errors() -> None:
    outputs, labels = blend()
    with pytest.raises(ConfigError, match="did you mean 'stacked'"):
        fit_combiner("staked", outputs, labels, generator=generator())
    with pytest.raises(ConfigError, match="num_step"):
        fit_combiner("greedy", outputs, labels, generator=generator(), num_step=3)
    with pytest.raises(ConfigError, match="max_epochs"):
        fit_combiner("stacked-network", outputs, labels, generator=generator(), max_epochs=0)


def test_outputs_that_do_not_fit_are_errors() -> None:
    outputs, labels = blend()
    with pytest.raises(InputError, match="none of them empty"):
        fit_combiner("mean", outputs[0], labels, generator=generator())
    with pytest.raises(InputError, match="those of member 1 aren't"):
        fit_combiner("mean", outputs.index_fill(1, torch.tensor([1]), float("nan")), labels, generator=generator())
    with pytest.raises(InputError, match="of 3 member"):
        fit("mean")(outputs[:, :2])
    with pytest.raises(InputError, match="of 3 member"):
        fit("stacked")(outputs.transpose(1, 2))
    for method in ("stacked", "stacked-network"):
        with pytest.raises(ConfigError, match="two examples of each at least"):
            fit_combiner(method, outputs[:4], torch.tensor([0, 0, 1, 2]), generator=generator())
    with pytest.raises(ConfigError, match="two examples at least, got 1"):
        fit_combiner("greedy", outputs[:1], labels[:1], generator=generator())
    with pytest.raises(InputError, match="at least one member"):
        Ensemble([], fit("mean"))
    with pytest.raises(ConfigError, match="residual"):
        NetworkCombiner(3, 7, num_classes=4, residual=True)
    with pytest.raises(ConfigError, match="weights"):
        MeanCombiner([0, 0])
    with pytest.raises(ConfigError, match="temperature: expected a number > 0"):
        TemperatureCombiner(MeanCombiner([1]), 0)


def test_a_damaged_description_is_an_error() -> None:
    combiner = fit("mean")
    with pytest.raises(RunError, match="no combiner of kind 'median'"):
        combiner_from({"kind": "median"}, {})
    with pytest.raises(RunError, match="combiner: expected what graftwork writes"):
        combiner_from(describe_combiner(combiner), {})
    with pytest.raises(RunError, match="combiner: expected what graftwork writes"):
        combiner_from({}, {})
