"""Streams and data sets of Hugging Face: read once, to their end, within a bound."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from torch.utils.data import IterableDataset

from graftwork.datasets import _listing, load_dataset
from graftwork.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 10, 10, 3), dtype=np.uint8)
LABELS = [number % 3 for number in range(30)]


class Stream(IterableDataset):
    """Pairs of image and label, which can be read once."""

    def __init__(self) -> None:
        self._left = iter(zip(IMAGES, LABELS, strict=True))

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        return self._left


def test_a_stream_of_torch_is_read_as_the_arrays_it_gives() -> None:
    assert load_dataset(Stream()).fingerprint == load_dataset((IMAGES, LABELS)).fingerprint
    given = {"train": Stream(), "test": ((image, label) for image, label in zip(IMAGES, LABELS, strict=True))}
    found = load_dataset(given)
    assert found.test_images is not None
    assert len(found.images) + len(found.test_images) == 60


def test_a_stream_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_listing, "_MOST_STREAMED", 20)

    def endless() -> Iterator[tuple[Any, int]]:
        while True:
            yield from zip(IMAGES, LABELS, strict=True)

    with pytest.raises(DataError, match=r"expected a stream of at most 20 images.*take\("):
        load_dataset(endless())


@pytest.fixture
def hub() -> Any:
    """A local data set of Hugging Face."""
    datasets = pytest.importorskip("datasets")
    columns = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cow"])}
    return datasets.Dataset.from_dict({"image": list(IMAGES), "label": LABELS}, features=datasets.Features(columns))


@pytest.mark.filterwarnings("ignore")  # those of the package
def test_a_local_data_set_of_hugging_face_and_its_stream_are_read_alike(hub: Any) -> None:
    plain, streamed = load_dataset(hub), load_dataset(hub.to_iterable_dataset())
    assert tuple(plain.class_names) == tuple(streamed.class_names) == ("ant", "bee", "cow")
    assert plain.fingerprint == streamed.fingerprint
    split = load_dataset({"train": hub.to_iterable_dataset(), "test": hub.to_iterable_dataset()})
    assert split.test_images is not None


@pytest.mark.filterwarnings("ignore")
def test_a_stream_of_hugging_face_is_read_within_the_bound(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_listing, "_MOST_STREAMED", 20)
    with pytest.raises(DataError, match="expected a stream of at most 20 images"):
        load_dataset(hub.to_iterable_dataset())
    assert len(load_dataset(hub.to_iterable_dataset().take(18)).images) == 18
