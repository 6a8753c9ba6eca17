"""Rules that a source's odd corners are read by: names, depths, orientation, pickles, the hub."""

import os
import pickle
import sys
import tarfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from graftwork.datasets import load_dataset, read_image, split
from graftwork.datasets._unpickle import UnsafePickleError, read_arrays
from graftwork.errors import DataError
from tests.datasets.test_sources import encoded, pixels, write_cifar, write_folder, write_parquet
from tests.datasets.test_splits import make_dataset


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(5))
def test_arrays_of_every_protocol_come_back(protocol: int) -> None:
    data = np.arange(12, dtype=np.uint8).reshape(3, 4)
    found = read_arrays(pickle.dumps({b"data": data, "names": ["a", b"b"], "labels": [1]}, protocol=protocol))
    assert np.array_equal(found["data"], data)
    assert found["names"] == ["a", b"b"]


@pytest.mark.parametrize(
    "bomb",
    [
        Call(os.system, "touch bomb"),
        Call(eval, "open('bomb', 'w')"),
        Call(np.load, "bomb"),
        Call(getattr, Call(__import__, "os"), "abort"),
    ],
    ids=["system", "eval", "numpy", "nested"],
)
def test_a_pickle_that_asks_for_anything_else_is_refused(bomb: Call, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafePickleError, match="nothing was executed"):
        read_arrays(pickle.dumps({"data": bomb}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hostile", [Call(np.ndarray, (10**14,), np.dtype("u1")), Call(np.dtype, "O")])
def test_admitted_names_are_stand_ins_that_do_nothing(hostile: Call) -> None:
    found = read_arrays(pickle.dumps({"data": hostile}))["data"]
    assert type(found).__module__ == "graftwork.datasets._unpickle"


def test_arrays_of_other_types_are_no_batch() -> None:
    with pytest.raises(ValueError, match="expected an array of bytes"):
        read_arrays(pickle.dumps({"data": np.zeros(3)}, protocol=2))


def test_cifar_without_one_of_its_batches_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write_cifar(tmp_path / "c", pixels(16, side=32), [0, 1] * 8)
    (path / "data_batch_4").unlink()
    with pytest.raises(DataError, match="expected data_batch_4 too"):
        load_dataset(path)


def test_cifar_follows_image_size(tmp_path: Path) -> None:
    path = write_cifar(tmp_path / "c", pixels(16, side=32), [0, 1] * 8)
    dataset = load_dataset(path, image_size=16)
    assert dataset.shape == (16, 16, 3)


def test_an_archive_with_flipped_bytes_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = write_cifar(tmp_path / "c", pixels(16, side=32), [0, 1] * 8)
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as archive:
        archive.add(folder, "c")
    data = bytearray((tmp_path / "c.tar.gz").read_bytes())
    data[2000:2100] = bytes(100)
    (tmp_path / "c.tar.gz").write_bytes(data)
    with pytest.raises(DataError, match=r"c\.tar\.gz"):
        load_dataset(tmp_path / "c.tar.gz")


def test_a_cameras_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(pixels(1, side=16)[0][:8])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    found = read_image(tmp_path / "turned.png", size=(16, 8), channels=3)
    assert np.array_equal(found, np.rot90(np.asarray(image), -1))


def test_every_16_bit_image_is_scaled_alike(tmp_path: Path) -> None:
    for name, value in (("dark", 200), ("bright", 60000)):
        Image.fromarray(np.full((8, 8), value, np.uint16)).save(tmp_path / f"{name}.png")
    dark, bright = (read_image(tmp_path / f"{n}.png", size=(8, 8), channels=1)[0, 0, 0] for n in ("dark", "bright"))
    assert (dark, bright) == (round(200 / 257), round(60000 / 257))


def test_an_image_with_nan_is_an_error_and_can_be_skipped(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", pixels(4, channels=1), [0, 0, 1, 1])
    values = np.full((10, 10), 0.5, np.float32)
    values[3, 3] = np.nan
    Image.fromarray(values).save(root / "class0" / "nan.tiff")
    with pytest.raises(DataError, match=r"nan\.tiff"):
        load_dataset(root)
    assert len(load_dataset(root, skip_bad_images=True).images) == 4


def test_an_image_cut_off_is_skipped_and_the_rest_keeps_its_labels(tmp_path: Path) -> None:
    images = pixels(6)
    root = write_folder(tmp_path / "d", images, [0, 0, 0, 1, 1, 1])
    file = root / "class0" / "001.png"
    file.write_bytes(file.read_bytes()[:60])
    dataset = load_dataset(root, skip_bad_images=True)
    assert np.array_equal(dataset.images, images[[0, 2, 3, 4, 5]])
    assert dataset.labels.tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_lossless_format_keeps_pixels(tmp_path: Path, kind: str, channels: int) -> None:
    image = pixels(1, channels=channels)[0] if kind != "WEBP" else np.repeat(pixels(1, channels=1)[0], 3, axis=-1)
    (tmp_path / "a").write_bytes(encoded(image, kind))
    assert np.array_equal(read_image(tmp_path / "a", size=(10, 10), channels=image.shape[-1]), image)


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", pixels(4), [0, 0, 1, 1])
    (root / "class0" / "._000.png").write_bytes(b"a resource fork, no image")
    (root / "class0" / ".thumbs").mkdir()
    (root / "class0" / ".thumbs" / "t.png").write_bytes(b"no image either")
    assert len(load_dataset(root).images) == 4


def test_validation_images_are_the_validation_split_beside_a_test_folder(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        write_folder(tmp_path / "d" / name, pixels(4), [0, 0, 1, 1])
    dataset = load_dataset(tmp_path / "d")
    assert dataset.labels.tolist() == [0, 0, 1, 1] * 2
    assert dataset.test_images is not None
    assert len(dataset.test_images) == 4
    assert split(dataset, seed=0, blend=0).validation.tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("names", "test", "validation"),
    [
        (["latest.parquet", "carnival.parquet"], 0, 0),
        (["train.parquet", "test.parquet"], 4, 0),
        (["train/0.parquet", "validation/0.parquet"], 0, 4),
        (["contest-train.parquet", "contest-test.parquet", "contest-val.parquet"], 4, 4),
    ],
)
def test_the_word_in_a_file_name_says_its_split(tmp_path: Path, names: list[str], test: int, validation: int) -> None:
    for name in names:
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        write_parquet(tmp_path / "d" / name, pixels(4), [0, 1] * 2)
    found = load_dataset(tmp_path / "d")
    counts = [0 if rows is None else len(rows) for rows in (found.test_images, found.validation)]
    assert counts == [test, validation]


def test_numbers_without_names_may_start_anywhere(tmp_path: Path) -> None:
    dataset = load_dataset(write_parquet(tmp_path / "a.parquet", pixels(6), [1, 7, 3] * 2))
    assert dataset.class_names == ("1", "3", "7")
    assert dataset.labels.tolist() == [0, 2, 1] * 2


def test_images_may_lie_beside_a_table(tmp_path: Path) -> None:
    images = pixels(4)
    for number, image in enumerate(images):
        (tmp_path / f"{number}.png").write_bytes(encoded(image))
    cells = [{"bytes": None, "path": f"{number}.png"} for number in range(4)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, kind), "label": [0, 1, 0, 1]}), tmp_path / "a.parquet")
    assert np.array_equal(load_dataset(tmp_path / "a.parquet").images, images)


class FakePart:
    """What is used of a split of the optional package ``datasets``."""

    def __init__(self, table: pa.Table, fingerprint: str) -> None:
        self.table, self._fingerprint = table, fingerprint
        self.features = types.SimpleNamespace(arrow_schema=table.schema)

    def with_format(self, kind: str) -> "FakePart":
        assert kind == "arrow"
        return self

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, rows: slice) -> pa.Table:
        return self.table[rows]


def test_a_name_is_fetched_and_a_new_version_of_it_is_seen(tmp_path: Path, monkeypatch: Any) -> None:
    tables = [pq.read_table(write_parquet(tmp_path / f"{i}.parquet", pixels(4), [0, 1, 0, 1])) for i in range(2)]
    found = {"train": FakePart(tables[0], "one"), "test": FakePart(tables[1], "two")}
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda name: found))
    first = load_dataset("somebody/something", cache_dir=tmp_path / "cache")
    assert first.test_images is not None
    found["train"] = FakePart(tables[1], "three")
    assert load_dataset("somebody/something", cache_dir=tmp_path / "cache").fingerprint != first.fingerprint


def test_a_name_without_the_extra_says_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"graftwork\[datasets\]"):
        load_dataset("somebody/something")


@pytest.mark.parametrize("size", [1.5, -0.1, float("nan"), float("inf"), True, 1000])
def test_a_size_of_a_split_is_a_share_or_a_whole_number(size: float) -> None:
    with pytest.raises(DataError, match="validation"):
        split(make_dataset([50, 50]), seed=0, validation=size)
