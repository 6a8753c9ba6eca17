"""Calibration error and likelihood: hand-made cases, scikit-learn, a naive loop."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import InputError
from graftwork.metrics import expected_calibration_error, negative_log_likelihood, reliability


def random_predictions(seed: int, num_examples: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(4, 0.5), size=num_examples)
    return probabilities, rng.integers(0, 4, num_examples)


@given(st.integers(0, 2**32 - 1))
def test_likelihood_is_that_of_scikit_learn(seed: int) -> None:
    probabilities, labels = random_predictions(seed)
    expected = sklearn.metrics.log_loss(labels, probabilities, labels=range(4))
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_calibration_error_is_that_of_a_naive_loop(seed: int, num_bins: int) -> None:
    probabilities, labels = random_predictions(seed)
    error = 0.0
    for index in range(num_bins):
        inside = [
            (row.max(), row.argmax() == label)
            for row, label in zip(probabilities, labels, strict=True)
            if index / num_bins < row.max() <= (index + 1) / num_bins
        ]
        if inside:
            confidence, right = np.mean(inside, axis=0)
            error += abs(right - confidence) * len(inside) / len(labels)
    assert expected_calibration_error(probabilities, labels, num_bins=num_bins) == pytest.approx(error, abs=1e-12)


def test_a_model_that_is_right_as_often_as_it_says_has_no_error() -> None:
    probabilities = np.tile([0.8, 0.2], (10, 1))
    assert expected_calibration_error(probabilities, np.array([0] * 8 + [1] * 2)) == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error(probabilities, np.array([1] * 10)) == pytest.approx(0.8)


def test_bins_count_every_example_once_and_leave_empty_ones_undefined() -> None:
    bins = reliability(np.array([[1, 0], [0.5, 0.5], [0.75, 0.25]]), np.array([0, 0, 1]), num_bins=4)
    assert bins.counts.tolist() == [0, 1, 1, 1]
    assert np.isnan(bins.accuracies[0])
    assert bins.accuracies[1:].tolist() == [1, 0, 1]
    assert bins.confidences[1:].tolist() == [0.5, 0.75, 1]


def test_an_impossible_label_costs_much_but_not_infinity() -> None:
    for dtype in (np.float32, np.float64):
        likelihood = negative_log_likelihood(np.array([[1, 0]], dtype=dtype), np.array([1]))
        assert 80 < likelihood < 1000


def test_rows_that_are_no_probabilities_are_an_error_that_names_the_row() -> None:
    with pytest.raises(InputError, match="row 1"):
        negative_log_likelihood(np.array([[0.5, 0.5], [3.0, -2.0]]), np.array([0, 1]))
    with pytest.raises(InputError, match="row 0"):
        negative_log_likelihood(np.array([[0.5, np.nan]]), np.array([0]))
    with pytest.raises(InputError, match="labels: expected classes in 0 … 1"):
        reliability(np.array([[0.5, 0.5]]), np.array([2]))
    with pytest.raises(InputError, match="same examples"):
        reliability(np.array([[0.5, 0.5]]), np.array([0, 1]))
    with pytest.raises(InputError, match="num_bins"):
        reliability(np.array([[0.5, 0.5]]), np.array([0]), num_bins=0)
