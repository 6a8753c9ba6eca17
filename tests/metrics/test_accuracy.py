"""Accuracy, confusion and intervals against scikit-learn, scipy and hand counts."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import InputError
from graftwork.metrics import (
    accuracy,
    accuracy_by_class,
    bootstrap_interval,
    confusion_matrix,
    kendall_tau,
    wilson_interval,
)

classes = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(classes)
def test_accuracy_and_confusion_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    predicted, labels = np.array(pairs).T
    assert accuracy(predicted, labels) == sklearn.metrics.accuracy_score(labels, predicted)
    confusion = confusion_matrix(predicted, labels, 5)
    assert confusion.tolist() == sklearn.metrics.confusion_matrix(labels, predicted, labels=range(5)).tolist()
    by_class = accuracy_by_class(predicted, labels, 5)
    for label in range(5):
        if (labels == label).any():
            assert by_class[label] == (predicted[labels == label] == label).mean()
        else:
            assert np.isnan(by_class[label])


def test_classes_that_do_not_fit_are_errors() -> None:
    with pytest.raises(InputError, match=r"same examples"):
        accuracy(np.array([1, 2]), np.array([1]))
    with pytest.raises(InputError, match="integers"):
        accuracy(np.array([0.5]), np.array([1]))
    with pytest.raises(InputError, match="at least one"):
        accuracy(np.array([], int), np.array([], int))
    with pytest.raises(InputError, match="labels: expected classes in 0 … 1, got 0 to 2"):
        confusion_matrix(np.array([0, 1]), np.array([0, 2]), 2)


@given(st.integers(1, 500), st.data(), st.sampled_from([0.5, 0.95, 0.999]))
def test_wilson_interval_is_that_of_scipy(num_examples: int, data: st.DataObject, level: float) -> None:
    num_correct = data.draw(st.integers(0, num_examples))
    expected = scipy.stats.binomtest(num_correct, num_examples).proportion_ci(level, method="wilson")
    interval = wilson_interval(num_correct, num_examples, level=level)
    assert interval == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= interval[0] <= num_correct / num_examples <= interval[1] <= 1


def test_bootstrap_interval_of_a_share_is_near_wilson_and_repeats() -> None:
    correct = np.arange(2000) < 1700
    interval = bootstrap_interval(correct, rng=np.random.default_rng(0), num_resamples=20000)
    assert interval == pytest.approx(wilson_interval(1700, 2000), abs=1e-3)
    assert interval == bootstrap_interval(correct, rng=np.random.default_rng(0), num_resamples=20000)
    assert interval != bootstrap_interval(correct, rng=np.random.default_rng(1), num_resamples=20000)


def test_bootstrap_interval_of_a_paired_difference_is_near_the_normal_one() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(3000) < 0.8
    second = np.where(rng.random(3000) < 0.9, first, ~first)
    differences = first.astype(float) - second
    low, high = bootstrap_interval(differences, rng=rng, num_resamples=20000)
    half = 1.96 * differences.std() / 3000**0.5
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=1e-3)


def test_a_constant_has_no_width() -> None:
    assert bootstrap_interval(np.ones(5, bool), rng=np.random.default_rng(0)) == (1.0, 1.0)


def test_counts_and_levels_out_of_range_are_errors() -> None:
    with pytest.raises(InputError, match="3 of 2"):
        wilson_interval(3, 2)
    with pytest.raises(InputError, match="0 of 0"):
        wilson_interval(0, 0)
    with pytest.raises(InputError, match="level: expected a number between 0 and 1, got 95"):
        wilson_interval(1, 2, level=95)
    with pytest.raises(InputError, match="at least one"):
        bootstrap_interval(np.array([]), rng=np.random.default_rng(0))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=25))
def test_kendall_tau_is_that_of_scipy_with_and_without_ties(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs).T
    tau = kendall_tau(first, second)
    if len(set(first.tolist())) == 1 or len(set(second.tolist())) == 1:
        assert np.isnan(tau)
    else:
        assert tau == pytest.approx(scipy.stats.kendalltau(first, second).statistic, abs=1e-12)


def test_kendall_tau_of_one_order_and_its_reverse() -> None:
    assert kendall_tau([0.1, 0.5, 0.7], [1, 2, 9]) == 1
    assert kendall_tau([0.1, 0.5, 0.7], [3, 2, 1]) == -1
    with pytest.raises(InputError, match="at least two"):
        kendall_tau([1], [1])
    with pytest.raises(InputError, match="same items"):
        kendall_tau([1, 2], [1, 2, 3])
