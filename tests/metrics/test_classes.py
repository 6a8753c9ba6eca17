"""Classes one by one, against scikit-learn and exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.errors import InputError
from graftwork.metrics import balanced_accuracies, class_scores, class_shares

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@settings(max_examples=30)
@given(pairs)
def test_class_scores_are_those_of_scikit_learn(found: list[tuple[int, int]]) -> None:
    predicted, labels = np.array(found).T
    scores = class_scores(predicted, labels, 7)
    assert scores.balanced_accuracy == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, predicted))
    assert scores.macro_f1 == pytest.approx(sklearn.metrics.f1_score(labels, predicted, average="macro"))
    assert scores.support.tolist() == np.bincount(labels, minlength=7).tolist()
    for label in range(7):
        for share, among in ((scores.recall[label], labels == label), (scores.precision[label], predicted == label)):
            both = ((labels == label) & (predicted == label)).sum()
            assert share == pytest.approx(both / among.sum() if among.any() else 0)


@given(pairs, st.integers(1, 4))
def test_balanced_accuracies_are_exact_whatever_the_order_of_examples(
    found: list[tuple[int, int]], members: int
) -> None:
    labels = np.array(found)[:, 0]
    rng = np.random.default_rng(len(found))
    correct = rng.random((members, len(labels))) < 0.6
    there = sorted(set(labels.tolist()))
    for row, score in zip(correct, balanced_accuracies(correct, labels), strict=True):
        recalls = [Fraction(int(row[labels == label].sum()), int((labels == label).sum())) for label in there]
        assert score == float(sum(recalls, Fraction(0)) / len(there))
    order = rng.permutation(len(labels))
    assert np.array_equal(balanced_accuracies(correct[:, order], labels[order]), balanced_accuracies(correct, labels))
    shares, counts = class_shares(labels), np.bincount(labels).tolist()
    assert len({share * count for share, count in zip(shares, counts, strict=True) if count}) == 1


def test_a_majority_of_75_to_1_is_accurate_and_not_balanced() -> None:
    labels = np.repeat([0, 1, 2], [900, 60, 12])
    scores = class_scores(np.zeros(972, dtype=np.int64), labels, 3)
    assert scores.balanced_accuracy == pytest.approx(1 / 3)
    assert scores.recall.tolist() == [1, 0, 0]
    assert scores.precision[0] == pytest.approx(0.926, abs=1e-3)


def test_classes_of_other_examples_are_refused() -> None:
    with pytest.raises(InputError, match="one for each of 3 examples"):
        balanced_accuracies(np.ones((1, 3), dtype=np.bool_), np.zeros(2, dtype=np.int64))
