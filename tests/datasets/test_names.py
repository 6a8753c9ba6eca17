"""Names decide, never places: classes, splits and files of users' data are matched by name, or refused by it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageOps

from graftwork.datasets import image_files, load_dataset
from graftwork.datasets._convert import open_image
from graftwork.errors import DataError
from tests.cases.images import class_folders, png, table

SHADES = {"cat": 40, "dog": 200}


def named(names: list[str]) -> bytes:
    """Hugging Face's metadata: a label column whose numbers have names."""
    return json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}).encode()


def write(path: Path, names: list[str], rows: int = 8) -> Path:
    """A table in which each class has a shade of its own, numbered in the order of its names."""
    labels = [row % len(names) for row in range(rows)]
    images = pa.array([{"bytes": png(SHADES[names[label]]), "path": None} for label in labels])
    return table(path, images, labels, metadata=named(names))


def test_classes_that_two_tables_number_differently_are_matched_by_name(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", ["cat", "dog"])
    write(tmp_path / "test.parquet", ["dog", "cat"])
    found = load_dataset(tmp_path)
    assert found.class_names == ("cat", "dog")
    assert found.test_images is not None
    assert found.test_labels is not None
    for images, labels in ((found.images, found.labels), (found.test_images, found.test_labels)):
        shades = np.asarray(images)[:, 0, 0, 0]
        assert [found.class_names[label] for label in labels] == [{40: "cat", 200: "dog"}[int(s)] for s in shades]


@pytest.mark.parametrize("other", [["cat", "dog", "dog"], ["cat", "bird"]])
def test_tables_that_name_other_classes_are_refused_with_both_files(other: list[str], tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", ["cat", "dog"])
    images = pa.array([{"bytes": png(9), "path": None}] * 4)
    table(tmp_path / "test.parquet", images, [0, 1, 0, 1], metadata=named(other))
    with pytest.raises(DataError, match=r"test\.parquet.*train\.parquet"):
        load_dataset(tmp_path)


def test_numbers_without_names_beside_a_table_with_names_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", ["cat", "dog"])
    table(tmp_path / "test.parquet", pa.array([{"bytes": png(9), "path": None}] * 4), [0, 1, 0, 1])
    with pytest.raises(DataError, match=r"class names.*none"):
        load_dataset(tmp_path)


def test_a_table_in_a_hidden_folder_does_not_take_the_place_of_images(tmp_path: Path) -> None:
    class_folders(tmp_path, "ab")
    write(tmp_path / ".cache" / "x.parquet", ["cat", "dog"])
    assert load_dataset(tmp_path).class_names == ("a", "b")


def test_images_beside_tables_are_refused_with_both(tmp_path: Path) -> None:
    class_folders(tmp_path, "ab")
    write(tmp_path / "embeddings.parquet", ["cat", "dog"])
    with pytest.raises(DataError, match=r"16 images.*embeddings\.parquet"):
        load_dataset(tmp_path)


def test_a_split_beside_a_folder_of_loose_images_is_refused(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", "ab")
    (tmp_path / "test").mkdir()
    Image.new("RGB", (12, 12)).save(tmp_path / "test" / "0.png")
    with pytest.raises(DataError, match="images in test itself"):
        load_dataset(tmp_path)


def test_classes_may_be_called_like_all_splits(tmp_path: Path) -> None:
    class_folders(tmp_path, ["test", "train", "val"])
    assert load_dataset(tmp_path).class_names == ("test", "train", "val")


def test_images_that_no_split_holds_and_kinds_that_can_not_be_read_are_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        class_folders(tmp_path / split, "ab")
    class_folders(tmp_path, ["unsorted"], images=3)
    (tmp_path / "train" / "a" / "phone.HEIC").write_bytes(b"")
    reasons = dict(load_dataset(tmp_path).skipped)
    assert "3 images" in reasons[str(tmp_path / "unsorted")]
    assert "convert" in reasons[str(tmp_path / "train" / "a" / "phone.HEIC")]
    assert len(reasons) == 2


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    data = class_folders(tmp_path, "ab")
    (data / "a" / "loop").symlink_to(data / "a", target_is_directory=True)
    assert len(image_files(data / "a")) == 8


def test_links_and_hidden_images_are_told_by_what_they_are(tmp_path: Path) -> None:
    data, skipped = class_folders(tmp_path, "ab"), list[tuple[str, str]]()
    for name, target in {
        "self.png": "self.png",
        "gone.png": "nowhere",
        "linked.png": "../b",
        "again.png": "0.png",
    }.items():
        (data / "a" / name).symlink_to(target)
    (data / "a" / ".hidden.png").touch()
    (data / "a" / ".hidden.txt").touch()
    images = {path.name for path in image_files(data / "a", skipped=skipped)}
    reasons = {Path(name).name: reason for name, reason in skipped}
    assert "again.png" in images
    assert not images.intersection(reasons)
    assert "Too many levels" in reasons["self.png"]
    assert reasons["gone.png"] == "a link to nothing"
    assert reasons[".hidden.png"] == "a hidden image"
    assert ".hidden.txt" not in reasons


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_pillow_turns_it(orientation: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as photo:
        expected = np.asarray(ImageOps.exif_transpose(photo))
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "x.png", "x")), expected)
