"""Mean, forward selection and temperature on arrays."""

import math

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.ensembles import fit_temperature, greedy_forward_selection, mean_probabilities
from graftwork.errors import ConfigError, InputError
from graftwork.metrics import negative_log_likelihood

seeds = st.integers(0, 2**32 - 1)


def members(seed: int, num_members: int = 4, num_examples: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [example, member, class] that lean to the labels, each member by its own skill."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num_examples)
    logits = rng.normal(size=(num_examples, num_members, 3))
    logits += 2 * rng.random((num_members, 1)) * np.eye(3)[labels][:, None]
    exponents = np.exp(logits)
    return exponents / exponents.sum(axis=2, keepdims=True), labels


@given(seeds, st.permutations(range(4)))
def test_mean_is_the_mean_and_the_order_of_members_does_not_matter(seed: int, order: list[int]) -> None:
    probabilities, _ = members(seed)
    mean = mean_probabilities(probabilities)
    np.testing.assert_allclose(mean, sum(probabilities[:, k] for k in range(4)) / 4, rtol=1e-14)
    np.testing.assert_allclose(mean_probabilities(probabilities[:, order]), mean, rtol=1e-14)
    np.testing.assert_allclose(mean_probabilities(probabilities, np.array([2, 2, 2, 2])), mean, rtol=1e-14)
    weights = np.array([3, 0, 1, 0])
    expected = 0.75 * probabilities[:, 0] + 0.25 * probabilities[:, 2]
    np.testing.assert_allclose(mean_probabilities(probabilities, weights), expected, rtol=1e-14)


@given(seeds)
def test_mean_of_one_member_is_that_member(seed: int) -> None:
    probabilities, _ = members(seed, num_members=1)
    assert np.array_equal(mean_probabilities(probabilities), probabilities[:, 0])


@given(seeds, st.integers(1, 12), st.sampled_from(["nll", "accuracy"]))
def test_every_step_of_forward_selection_is_the_best_of_all_candidates(
    seed: int, num_steps: int, criterion: str
) -> None:
    probabilities, labels = members(seed)
    selection = greedy_forward_selection(probabilities, labels, num_steps=num_steps, criterion=criterion)

    def brute_force(rows: tuple[int, ...]) -> tuple[float, float]:
        mean = probabilities[:, rows].mean(axis=1)
        log = np.mean(np.log(mean[np.arange(len(labels)), labels]))
        return (np.mean(mean.argmax(axis=1) == labels), log) if criterion == "accuracy" else (log, 0)

    for step, row in enumerate(selection.order):
        trials = [brute_force((*selection.order[:step], other)) for other in range(4)]
        best = max(trials)
        assert trials[row] == pytest.approx(best, abs=1e-9)
        assert selection.scores[step] == pytest.approx(best[0], abs=1e-9)
    assert len(selection.scores) == num_steps
    assert max(selection.scores) == pytest.approx(selection.scores[len(selection.order) - 1])
    assert selection.weights.sum() == pytest.approx(1)
    counts = np.bincount(selection.order, minlength=4)
    np.testing.assert_allclose(selection.weights, counts / counts.sum())


@given(seeds)
def test_forward_selection_is_at_least_as_likely_as_its_best_member(seed: int) -> None:
    probabilities, labels = members(seed)
    selection = greedy_forward_selection(probabilities, labels)
    combined = negative_log_likelihood(mean_probabilities(probabilities, selection.weights), labels)
    best = min(negative_log_likelihood(probabilities[:, k], labels) for k in range(4))
    assert combined <= best + 1e-9


@given(seeds)
def test_forward_selection_from_one_member_is_that_member(seed: int) -> None:
    probabilities, labels = members(seed, num_members=1)
    assert greedy_forward_selection(probabilities, labels).weights.tolist() == [1]


@given(seeds, st.permutations(range(30)))
def test_forward_selection_does_not_depend_on_the_order_of_examples(seed: int, order: list[int]) -> None:
    probabilities, labels = members(seed)
    first = greedy_forward_selection(probabilities, labels)
    assert greedy_forward_selection(probabilities[order], labels[order]).order == first.order


def test_forward_selection_takes_a_useful_member_again_and_of_twins_the_first() -> None:
    sure = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    weak = np.array([[0.65, 0.35], [0.7, 0.3], [0.01, 0.99]])
    probabilities = np.stack([weak, sure, sure, weak], axis=1)
    selection = greedy_forward_selection(probabilities, np.array([0, 0, 0]), num_steps=5)
    assert selection.order == (1,)
    assert selection.weights.tolist() == [0, 1, 0, 0]
    mixed = greedy_forward_selection(probabilities, np.array([0, 0, 1]), num_steps=9)
    assert 2 not in mixed.order
    assert 3 not in mixed.order
    assert mixed.order.count(1) > 1


def random_logits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(60, 4)) * rng.uniform(0.3, 6)
    labels = np.where(rng.random(60) < 0.6, logits.argmax(axis=1), rng.integers(0, 4, 60))
    return logits, labels


def loss_at(temperature: float, logits: np.ndarray, labels: np.ndarray) -> float:
    scaled = logits / temperature
    return float(np.mean(np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(labels)), labels]))


@settings(max_examples=50)
@given(seeds)
def test_temperature_is_the_minimum_that_scipy_finds(seed: int) -> None:
    logits, labels = random_logits(seed)
    oracle = scipy.optimize.minimize_scalar(
        lambda log: loss_at(math.exp(log), logits, labels), bounds=(math.log(0.01), math.log(100)), method="bounded"
    )
    temperature = fit_temperature(logits, labels)
    assert loss_at(temperature, logits, labels) <= oracle.fun + 1e-9


@given(seeds, st.floats(0.2, 5))
def test_scaling_the_logits_scales_the_temperature(seed: int, scale: float) -> None:
    logits, labels = random_logits(seed)
    temperature = fit_temperature(logits, labels)
    if 0.1 < temperature < 10:
        assert fit_temperature(logits * scale, labels) == pytest.approx(temperature * scale, rel=1e-6)


def test_a_model_that_is_always_right_or_always_wrong_gets_an_end_of_the_range() -> None:
    logits = np.eye(3)[[0, 1, 2, 0]]
    assert fit_temperature(logits, np.array([0, 1, 2, 0])) == pytest.approx(0.01)
    assert fit_temperature(logits, np.array([1, 2, 0, 2])) == pytest.approx(100)


def test_arrays_that_do_not_fit_are_errors() -> None:
    probabilities, labels = members(0)
    with pytest.raises(InputError, match="none of them empty"):
        greedy_forward_selection(probabilities, labels[:5])
    broken = probabilities.copy()
    broken[3, 2, 1] = np.nan
    with pytest.raises(InputError, match="those of member 2"):
        greedy_forward_selection(broken, labels)
    with pytest.raises(InputError, match="got up to 3"):
        greedy_forward_selection(probabilities, labels + 1)
    with pytest.raises(InputError, match="whole numbers"):
        greedy_forward_selection(probabilities, labels - 1)
    with pytest.raises(ConfigError, match="num_steps"):
        greedy_forward_selection(probabilities, labels, num_steps=0)
    with pytest.raises(InputError, match="example, member, class"):
        mean_probabilities(probabilities[:, 0])
    with pytest.raises(InputError, match="4 numbers"):
        mean_probabilities(probabilities, np.zeros(4))
    with pytest.raises(InputError, match="got up to 2"):
        fit_temperature(np.zeros((2, 2)), np.array([0, 2]))
