"""Letters that are rendered here, for the demo."""

from pathlib import Path

import numpy as np
import pytest

from graftwork.datasets import _letters, load_dataset
from graftwork.errors import DataError


def test_letters_are_colour_images_of_every_letter_and_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_letters, "_OF_EACH", 12)
    first, second = (load_dataset("letters", cache_dir=tmp_path / name) for name in ("one", "other"))
    assert first.fingerprint == second.fingerprint
    assert first.shape == (16, 16, 3)
    assert "".join(first.class_names) == "abcdefghijklmnopqrstuvwxyz"
    assert np.array_equal(np.bincount(first.labels), np.full(26, 12))
    deviation = np.asarray(first.images).std(axis=(1, 2))
    assert (deviation.max(axis=1) > 8).all()  # none is empty


def test_a_folder_of_that_name_is_what_is_meant_and_their_size_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "letters").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="expected sub-folders of images"):
        load_dataset("letters", cache_dir=tmp_path / "cache")
    (tmp_path / "letters").rmdir()
    with pytest.raises(DataError, match="no image_size for letters"):
        load_dataset("letters", cache_dir=tmp_path / "cache", image_size=16)
