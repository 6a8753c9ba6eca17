"""Siblings of the cases of `test_data`: three more of each kind, so that no case was mended for its own input alone."""

import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import graftwork as gw
from graftwork.datasets import describe, split
from graftwork.errors import DataError
from tests.cases.commands import graftwork, tiny_search
from tests.cases.images import class_folders, picture, png, table

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file name is text")


# Classes that are called like splits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("Test", "exam"), ("training", "testing", "valid"), ("VAL", "bus", "train")])
def test_classes_may_be_called_like_splits(names: tuple[str, ...], tmp_path: Path) -> None:
    assert set(gw.load_dataset(class_folders(tmp_path, names)).class_names) == set(names)


# Read, or counted as passed over -------------------------------------------------------------------------------------


def _loose(data: Path) -> int:
    picture(0, np.random.default_rng(0)).save(data / "0.png")
    return 17


def _dead_link(data: Path) -> int:
    (data / "a" / "gone.jpg").symlink_to(data / "nowhere.jpg")
    return 17


def _hidden(data: Path) -> int:
    class_folders(data / ".trash", ("c",), images=1)
    return 17


def _unknown_kind(data: Path) -> int:
    (data / "a" / "0.ORF").write_bytes(b"raw of a camera")
    (data / "b" / "0.Heic").write_bytes(b"of a telephone")
    return 18


@pytest.mark.parametrize("add", [_loose, _dead_link, _hidden, _unknown_kind])
def test_everything_in_a_folder_is_read_or_counted(add: Callable[[Path], int], tmp_path: Path) -> None:
    found = gw.load_dataset(class_folders(tmp_path, ("a", "b")))
    assert found.skipped == ()
    expected = add(tmp_path)
    found = gw.load_dataset(tmp_path)
    assert len(found.images) + len(found.skipped) == expected
    assert len(describe(found, split(found, seed=0))["skipped"]) == len(found.skipped)


# Damaged EXIF --------------------------------------------------------------------------------------------------------


def _exif(orientation: bytes, *, entries: int = 1, offset: int = 8) -> bytes:
    body = b"Exif\0\0II*\0" + struct.pack("<I", offset) + struct.pack("<H", entries) + orientation + bytes(4)
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


EXIF = {
    "an orientation of 77": _exif(struct.pack("<HHIHH", 0x0112, 3, 1, 77, 0)),
    "an orientation that is text": _exif(struct.pack("<HHI4s", 0x0112, 2, 4, b"up!\0")),
    "more entries than there are": _exif(struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0), entries=500),
    "a directory behind the end": _exif(b"", entries=0, offset=2**31),
    "a rational of zero": _exif(struct.pack("<HHII", 0x011A, 5, 1, 2**20)),
}


@pytest.mark.parametrize("kind", EXIF)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_a_photo_with_damaged_exif_is_read(kind: str, tmp_path: Path) -> None:
    data = class_folders(tmp_path, "ab", ending="jpg")
    photo = (data / "a" / "0.jpg").read_bytes()
    (data / "a" / "0.jpg").write_bytes(photo[:2] + EXIF[kind] + photo[2:])
    assert len(gw.load_dataset(data).images) == 16


# Labels of any type --------------------------------------------------------------------------------------------------


def _column(kind: str) -> Any:
    numbers = [0, 1] * 6
    return {
        "large texts": pa.array(["night", "day"] * 6, pa.large_string()),
        "small numbers": pa.array(numbers, pa.int8()),
        "numbers without sign": pa.array(numbers, pa.uint64()),
        "categories of numbers": pa.array(numbers).dictionary_encode(),
    }[kind]


@pytest.mark.parametrize("kind", ["large texts", "small numbers", "numbers without sign", "categories of numbers"])
def test_labels_of_any_type_are_read(kind: str, tmp_path: Path) -> None:
    images = pa.array([{"bytes": png(255 * (row % 2)), "path": None} for row in range(12)])
    found = gw.load_dataset(table(tmp_path / "x.parquet", images, _column(kind)))
    shades = np.asarray(found.images)[:, 0, 0, 0] // 255
    names = found.class_names if kind != "large texts" else ("1", "0")
    assert [int(names[label]) for label in found.labels] == shades.tolist()


@pytest.mark.parametrize("labels", [[0.5, 1.5] * 6, [[0], [1]] * 6, [None, "day"] * 6])
def test_labels_that_are_none_are_one_error(labels: Any, tmp_path: Path) -> None:
    images = pa.array([{"bytes": png(0), "path": None}] * 12)
    with pytest.raises(DataError, match=r"x\.parquet"):
        gw.load_dataset(table(tmp_path / "x.parquet", images, pa.array(labels)))


# Names that are no UTF-8 ---------------------------------------------------------------------------------------------


@LINUX
def test_a_table_names_files_in_any_bytes(tmp_path: Path) -> None:
    folder = class_folders(tmp_path, "ab") / "a"
    (folder / "0.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    rows = [b"a/caf\xe9.png,x", *(b"a/%d.png,x" % n for n in range(1, 8)), *(b"b/%d.png,y" % n for n in range(8))]
    (tmp_path / "x.csv").write_bytes(b"path,label\n" + b"\n".join(rows))
    found = gw.load_dataset(tmp_path / "x.csv")
    assert len(found.images) == 16
    assert "caf\\xe9.png" in found.name_of(0)


@LINUX
def test_a_folder_of_images_above_the_classes_may_have_any_name(tmp_path: Path) -> None:
    data = tmp_path / os.fsdecode(b"d\xe9p\xf4t")
    data.mkdir()
    assert len(gw.load_dataset(class_folders(data, "ab")).images) == 16


@LINUX
def test_a_class_whose_name_is_no_text_is_refused_or_shown_by_its_bytes(tmp_path: Path) -> None:
    names = gw.load_dataset(class_folders(tmp_path, ("a", os.fsdecode(b"\xe9t\xe9")))).class_names
    assert names == ("a", "\\xe9t\\xe9")


# Small data sets, and what is left over in the environment -----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("names", "images"), [("ab", 2), ("ab", 4), ("abcde", 5), ("abc", 17)])
def test_a_small_data_set_ends_with_a_result_or_is_refused_before_training(
    names: str, images: int, tmp_path: Path
) -> None:
    data, run = class_folders(tmp_path / "data", names, images=images), tmp_path / "run"
    ending = graftwork(*tiny_search(tmp_path, shape=(3, 12, 12), classes=len(names), data=data))
    assert (run / "result.json").exists() == (ending.code == 0)
    assert ending.code == 0 or not list(run.glob("checkpoints/*"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [("RANK", "3"), ("WORLD_SIZE", "many"), ("MASTER_PORT", "none")])
def test_variables_that_are_left_over_are_ignored_or_named(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    ending = graftwork(*tiny_search(tmp_path))
    assert ending.code == 0 or (ending.code == 2 and name in ending.text)


@pytest.mark.slow
def test_a_run_on_a_table_with_a_root_is_resumed_from_another_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path / "images", "abc", images=60)
    rows = [f"{name}/{number}.png,{name}" for name in "abc" for number in range(60)]
    (tmp_path / "x.csv").write_text("\n".join(["path,label", *rows]))
    monkeypatch.chdir(tmp_path)
    options = ("--image-root", "images", "--blend", 10)
    search = tiny_search(tmp_path, *options, shape=(3, 12, 12), classes=3, data="x.csv")
    assert graftwork(*search).code == 0
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert graftwork("search", "--quiet", "--no-report", "--resume", tmp_path / "run").code == 0
