"""What belongs together stays together: copies, groups, and the splits of the source."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from graftwork.datasets import ImageDataset, describe, groups_of, load_dataset, split
from graftwork.datasets._copies import find_alike, number_copies
from graftwork.errors import DataError
from tests.datasets.test_sources import encoded, pixels, write_folder

PARTS = ("train", "validation", "blend", "test")


def made(labels: Any, *, groups: Any = None, copies: Any = None, **more: Any) -> ImageDataset:
    labels = np.asarray(labels, dtype=np.int64)
    images = np.zeros((len(labels), 8, 8, 1), dtype=np.uint8)
    keys = {name: None if key is None else np.asarray(key) for name, key in (("groups", groups), ("copies", copies))}
    return ImageDataset("made", images, labels, tuple(f"c{i}" for i in range(labels.max() + 1)), "f", **keys, **more)


@settings(max_examples=20)
@given(st.data(), st.integers(2, 4), st.integers(0, 99))
def test_no_group_and_no_copy_is_in_two_splits_and_every_class_is_in_all(
    data: st.DataObject, classes: int, seed: int
) -> None:
    sizes = st.lists(st.integers(1, 9), min_size=5, max_size=12)
    units = [size for _ in range(classes) for size in data.draw(sizes)]
    owners = np.repeat(np.arange(len(units)), units)
    first = np.cumsum([0, *units])
    labels = np.zeros(len(owners), dtype=np.int64)
    for unit, start in enumerate(first[:-1]):
        labels[start : first[unit + 1]] = unit % classes
    copies = np.arange(len(owners))
    copies[first[1]] = copies[0]  # a copy joins two groups
    dataset = made(labels, groups=owners, copies=copies)
    splits = split(dataset, seed=seed)
    parts = [getattr(splits, name) for name in PARTS]
    assert sorted(np.concatenate(parts)) == list(range(len(owners)))
    assert sorted(splits.order) == splits.train.tolist()
    place = np.concatenate([np.full(len(part), number) for number, part in enumerate(parts)])
    place = place[np.argsort(np.concatenate(parts))]
    for key in (owners, copies):
        _, first_of, key_of = np.unique(key, return_index=True, return_inverse=True)
        assert np.array_equal(place, place[first_of][key_of])
    for part in parts:
        assert set(labels[part]) == set(range(classes))


def test_rows_that_belong_together_have_one_number_and_others_another() -> None:
    dataset = made([0, 1, 0, 1, 0, 1], groups=[4, 4, 5, 6, 7, 8], copies=[0, 1, 2, 2, 4, 5])
    found = groups_of(dataset, np.array([5, 3, 2, 1, 0]))
    assert [found.tolist().index(number) for number in found] == [0, 1, 1, 3, 3]


def test_large_groups_are_dealt_in_the_wanted_proportion() -> None:
    dataset = made(np.arange(2000) % 4, groups=np.arange(2000) // 10)
    splits = split(dataset, seed=1)
    for name, wanted in (("test", 300), ("validation", 170), ("blend", 76)):
        assert abs(len(getattr(splits, name)) - wanted) <= 15
    assert np.array_equal(split(dataset, seed=1).test, splits.test)
    assert not np.array_equal(split(dataset, seed=2).test, splits.test)


def test_without_copies_and_groups_splits_are_what_they_are_without_looking() -> None:
    labels = np.arange(300) % 3
    plain, looked = (
        split(made(labels), seed=5),
        split(made(labels, copies=np.arange(300), groups=np.arange(300)), seed=5),
    )
    assert all(np.array_equal(getattr(plain, name), getattr(looked, name)) for name in (*PARTS, "order"))


def test_a_class_with_fewer_groups_than_splits_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"expected 4 groups.*got 1 of 'c1'"):
        split(made([0] * 40 + [1] * 40, groups=[*range(40), *[40] * 40]), seed=0)


def test_copies_of_test_and_validation_images_are_left_out_of_training(tmp_path: Path) -> None:
    images = pixels(20)
    write_folder(tmp_path / "train", images, [0, 1] * 10)
    write_folder(tmp_path / "val", np.concatenate([pixels(4), images[:1]]), [0, 1, 0, 1, 0])
    write_folder(tmp_path / "test", np.concatenate([pixels(4), images[2:4]]), [0, 1] * 3)
    dataset = load_dataset(tmp_path)
    splits = split(dataset, seed=0)
    assert sorted(Path(dataset.name_of(row)).name for row in splits.left_out) == ["000.png", "002.png", "003.png"]
    for name in ("train", "blend"):
        assert not set(splits.left_out) & set(getattr(splits, name))
    assert len(splits.validation) == 5
    found = describe(dataset, splits)
    assert len(found["repeats"]["left_out"]) == 3
    assert any("3 images have the pixels of one in a held-out split" in text for text in found["warnings"])


def test_copies_of_two_classes_are_named(tmp_path: Path) -> None:
    images = pixels(16)
    write_folder(tmp_path, np.concatenate([images, images[:1]]), [0, 1] * 8 + [1])
    dataset = load_dataset(tmp_path)
    found = describe(dataset, split(dataset, seed=0))
    assert found["repeats"]["same_pixels"] == 1
    (pair,) = found["repeats"]["same_pixels_other_class"]
    assert [Path(name).parts[-2:] for name in pair] == [("class0", "000.png"), ("class1", "016.png")]
    assert any("another class" in text for text in found["warnings"])


@pytest.mark.parametrize("test", [{"train": 20}, {"train": 10, "test": 10}])
def test_a_group_in_two_splits_of_the_source_is_refused(test: dict[str, int], tmp_path: Path) -> None:
    for number, image in enumerate(pixels(20)):
        (tmp_path / f"{number}.png").write_bytes(encoded(image))
    splits = [name for name, count in test.items() for _ in range(count)]
    rows = [f"{row}.png,{row % 2},{split},p{row % 5}" for row, split in enumerate(splits)]
    (tmp_path / "x.csv").write_text("\n".join(["path,label,split,patient", *rows]))
    if "test" in test:
        with pytest.raises(DataError, match=r"row 12.*every group in one split, got 'p0' in train and test"):
            load_dataset(tmp_path / "x.csv", group_column="patient")
    else:
        found = load_dataset(tmp_path / "x.csv", group_column="patient")
        assert found.groups is not None
        assert found.groups.tolist() == [row % 5 for row in range(20)]


def photo(seed: int, side: int = 48) -> Image.Image:
    """Smooth shapes, as photographs have them."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def test_images_saved_again_or_scaled_look_alike_and_others_do_not() -> None:
    originals = [photo(seed) for seed in range(40)]
    again = saved_again(originals[3])
    scaled = originals[7].resize((30, 30)).resize((48, 48))
    images = np.stack([np.asarray(image) for image in [*originals, again, scaled, originals[9]]])
    copies = number_copies([images])
    assert copies[-1] == copies[9]
    found = find_alike([images[:30], images[30:]], copies)
    assert {row: other for row, other in enumerate(found.tolist()) if other >= 0} == {3: 40, 40: 3, 7: 41, 41: 7}


def saved_again(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75)
    return Image.open(file)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_images_have_one_number_exactly_if_their_pixels_are_equal(shades: list[int]) -> None:
    images = np.stack([np.full((8, 8, 1), shade, dtype=np.uint8) for shade in shades])
    found = number_copies([images[:3], images[3:]])
    assert [[a == b for a in found] for b in found] == [[a == b for a in shades] for b in shades]


def test_every_near_pair_that_a_slow_search_finds_is_found() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (60, 8, 8, 1))
    noise = rng.integers(-40, 41, base.shape) * rng.random((60, 1, 1, 1))
    images = np.clip(np.concatenate([base, base + noise]), 0, 255).round().astype(np.uint8)
    flat = images.reshape(len(images), -1).astype(float)
    gaps = np.sqrt(np.square(flat[:, None] - flat).mean(2)) + np.diag([np.inf] * len(flat))
    limit = np.minimum(12, 0.2 * flat.std(1))
    near = (gaps <= np.minimum.outer(limit, limit)).any(1)
    assert 0 < near.sum() < len(near)
    assert np.array_equal(find_alike([images], np.arange(120)) >= 0, near)
