"""Splits are disjoint, complete, stratified and made by the seed alone."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.datasets import (
    ImageDataset,
    are_uneven,
    balanced_weights,
    describe,
    load_dataset,
    split,
    warnings_about,
)
from graftwork.errors import DataError


def make_dataset(counts: list[int], *, test: int = 0) -> ImageDataset:
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    images = np.zeros((len(labels), 8, 8, 1), dtype=np.uint8)
    given = (np.zeros((test, 8, 8, 1), dtype=np.uint8), np.arange(test) % len(counts)) if test else (None, None)
    return ImageDataset("made", images, labels, tuple(f"c{i}" for i in range(len(counts))), "f", *given)


@given(st.lists(st.integers(4, 60), min_size=2, max_size=6), st.integers(0, 99), st.booleans())
def test_splits_are_disjoint_complete_and_stratified(counts: list[int], seed: int, has_test: bool) -> None:
    dataset = make_dataset(counts, test=6 if has_test else 0)
    splits = split(dataset, seed=seed, validation=0.2, blend=0.1, test=0.2)
    parts = [splits.train, splits.validation, splits.blend, *([] if has_test else [splits.test])]
    together = np.concatenate(parts)
    assert sorted(together) == list(range(len(dataset.images)))
    assert sorted(splits.order) == list(splits.train)
    for part in parts:
        found = np.bincount(dataset.labels[part], minlength=len(counts))
        exact = np.array(counts) * len(part) / sum(counts)
        assert found.min() >= 1
        assert np.abs(found - exact).max() <= 4  # rounding of up to four deals, at least one image a class in each
    if has_test:
        assert len(splits.test) == 6


def test_every_beginning_of_the_calibration_order_is_stratified() -> None:
    dataset = make_dataset([100, 300])
    splits = split(dataset, seed=0)
    for size in (8, 40, 200):
        found = np.bincount(dataset.labels[splits.calibration(size)], minlength=2)
        assert abs(found[0] - size / 4) <= 2


def test_same_seed_gives_equal_splits_and_another_seed_others() -> None:
    dataset = make_dataset([50, 50])
    one, two, other = (split(dataset, seed=s) for s in (3, 3, 4))
    assert np.array_equal(one.train, two.train)
    assert np.array_equal(one.order, two.order)
    assert not np.array_equal(one.train, other.train)


def test_a_fresh_process_makes_the_same_splits_of_digits() -> None:
    code = (
        "from graftwork.datasets import load_dataset, split; s = split(load_dataset('digits'), seed=1);"
        "print(int((s.test * 7).sum()), int((s.blend * 3).sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    splits = split(load_dataset("digits"), seed=1)
    assert done.stdout.split() == [str(int((splits.test * 7).sum())), str(int((splits.blend * 3).sum()))]


def test_counts_are_taken_as_counts_and_shares_as_shares() -> None:
    splits = split(make_dataset([100, 100]), seed=0, validation=30, blend=0, test=0.1)
    assert (len(splits.validation), len(splits.blend), len(splits.test)) == (30, 0, 20)


@pytest.mark.parametrize("counts", [[2, 50], [1, 50]])
def test_a_class_too_small_for_all_splits_is_an_error_that_names_it(counts: list[int]) -> None:
    with pytest.raises(DataError, match="c0"):
        split(make_dataset(counts), seed=0)


def test_a_share_beyond_the_data_is_an_error() -> None:
    with pytest.raises(DataError, match="validation"):
        split(make_dataset([50, 50]), seed=0, validation=1000)


def test_describe_counts_every_split_and_class() -> None:
    dataset = make_dataset([50, 30], test=4)
    found = describe(dataset, split(dataset, seed=0))
    assert sum(found["splits"].values()) == 84
    assert sum(found["per_class"]["train"].values()) == found["splits"]["train"]
    assert found["per_class"]["test"] == {"c0": 2, "c1": 2}


def test_uneven_classes_and_small_splits_are_warned_of() -> None:
    even, uneven = make_dataset([1200, 1200]), make_dataset([9000, 600, 120])
    assert warnings_about(even, split(even, seed=0)) == []
    (text,) = warnings_about(uneven, split(uneven, seed=0))
    assert "'c0'" in text
    assert "'c2'" in text
    assert "92.6%" in text
    few = make_dataset([40, 40])
    texts = describe(few, split(few, seed=0))["warnings"]
    assert [text.split()[1] for text in texts] == ["validation", "test"]
    assert "has 12 images" in texts[1]


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6).filter(any))
def test_balanced_weights_give_every_class_the_same_and_every_image_one_on_average(counts: list[int]) -> None:
    numbers = np.array(counts)
    weights = balanced_weights(numbers)
    shares = (weights * numbers)[numbers > 0]
    assert np.allclose(shares, shares[0])
    assert (weights * numbers).sum() == pytest.approx(numbers.sum())


def test_classes_are_uneven_above_three_to_one() -> None:
    assert not are_uneven(np.array([30, 10, 20]))
    assert are_uneven(np.array([31, 10, 20]))
