"""Every kind of source gives the images that went in; bad data are one clear error each."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from graftwork.datasets import load_dataset, read_image
from graftwork.errors import DataError

RNG = np.random.default_rng(0)


def pixels(count: int, side: int = 10, channels: int = 3) -> np.ndarray[Any, Any]:
    return RNG.integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def encoded(image: np.ndarray[Any, Any], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, kind, lossless=True)
    return buffer.getvalue()


def write_parquet(path: Path, images: np.ndarray[Any, Any], labels: list[Any], *, kind: str = "WEBP") -> Path:
    cells = [{"bytes": encoded(image, kind), "path": None} for image in images]
    pq.write_table(pa.table({"img": cells, "label": labels}), path)
    return path


def write_folder(root: Path, images: np.ndarray[Any, Any], labels: list[int]) -> Path:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:03}.png").write_bytes(encoded(image))
    return root


def write_cifar(root: Path, images: np.ndarray[Any, Any], labels: list[int]) -> Path:
    root.mkdir()
    flat = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    parts = [(f"data_batch_{i + 1}", slice(2 * i, 2 * i + 2)) for i in range(5)] + [("test_batch", slice(10, None))]
    for name, part in parts:
        data = {b"data": np.ascontiguousarray(flat[part]), b"labels": labels[part]}
        (root / name).write_bytes(pickle.dumps(data, protocol=2))
    (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"cat", b"dog"]}, protocol=2))
    return root


def test_digits_are_scaled_to_bytes() -> None:
    dataset = load_dataset("digits")
    assert dataset.images.shape == (1797, 8, 8, 1)
    assert (dataset.images.min(), dataset.images.max()) == (0, 255)
    assert len(dataset.class_names) == 10


def test_parquet_keeps_pixels_and_splits_by_file_name(tmp_path: Path) -> None:
    images = pixels(12)
    write_parquet(tmp_path / "train-0.parquet", images[:8], [0, 1] * 4)
    write_parquet(tmp_path / "test-0.parquet", images[8:], [0, 1] * 2)
    dataset = load_dataset(tmp_path)
    assert np.array_equal(dataset.images, images[:8])
    assert dataset.test_images is not None
    assert np.array_equal(dataset.test_images, images[8:])
    assert dataset.labels.tolist() == [0, 1] * 4


def test_labels_as_strings_are_named_in_order(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", pixels(6), ["pear", "fig"] * 3)
    dataset = load_dataset(path)
    assert dataset.class_names == ("fig", "pear")
    assert dataset.labels.tolist() == [1, 0] * 3


def test_image_folder_keeps_pixels(tmp_path: Path) -> None:
    images = pixels(6)
    dataset = load_dataset(write_folder(tmp_path / "data", images, [0, 0, 0, 1, 1, 1]))
    assert np.array_equal(dataset.images, images)
    assert dataset.class_names == ("class0", "class1")


def test_image_folder_with_train_and_test_keeps_them_apart(tmp_path: Path) -> None:
    images = pixels(8)
    write_folder(tmp_path / "data" / "train", images[:4], [0, 0, 1, 1])
    write_folder(tmp_path / "data" / "test", images[4:], [0, 0, 1, 1])
    dataset = load_dataset(tmp_path / "data")
    assert np.array_equal(dataset.images, images[:4])
    assert dataset.test_images is not None
    assert np.array_equal(dataset.test_images, images[4:])


def test_grey_images_stay_grey_and_one_colour_image_makes_all_colour(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", pixels(4, channels=1), [0, 0, 1, 1])
    assert load_dataset(root).images.shape[-1] == 1
    (root / "class0" / "z.png").write_bytes(encoded(pixels(1)[0]))
    assert load_dataset(root).images.shape[-1] == 3


def test_mixed_sizes_are_scaled_and_cut_from_the_middle(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", pixels(4, side=12), [0, 0, 1, 1])
    Image.fromarray(pixels(1, side=40)[0][:20]).save(root / "class0" / "wide.png")
    assert load_dataset(root).images.shape[1:3] == (12, 12)
    assert load_dataset(root, image_size=16).images.shape[1:3] == (16, 16)


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png", size=(8, 8), channels=3).min() == 255


@pytest.mark.parametrize("packed", [False, True])
def test_cifar_in_its_own_format_keeps_pixels(tmp_path: Path, packed: bool) -> None:
    images, labels = pixels(16, side=32), [0, 1] * 8
    path = write_cifar(tmp_path / "cifar-10-batches-py", images, labels)
    if packed:
        with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as archive:
            archive.add(path, "cifar-10-batches-py")
        path = tmp_path / "c.tar.gz"
    dataset = load_dataset(path)
    assert np.array_equal(dataset.images, images[:10])
    assert dataset.test_images is not None
    assert np.array_equal(dataset.test_images, images[10:])
    assert dataset.class_names == ("cat", "dog")


def test_second_load_maps_the_cache_and_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", pixels(6), [0, 1] * 3)
    first, again = load_dataset(path), load_dataset(path)
    assert first.fingerprint == again.fingerprint
    assert isinstance(again.images, np.memmap)
    assert not again.images.flags.writeable
    write_parquet(path, pixels(6), [0, 1] * 3)
    os.utime(path, ns=(1, 1))
    assert load_dataset(path).fingerprint != first.fingerprint


class _Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch bomb-went-off",)


def test_a_pickle_that_would_run_code_is_refused_and_nothing_runs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_cifar(tmp_path / "cifar", pixels(16, side=32), [0, 1] * 8)
    (path / "data_batch_1").write_bytes(pickle.dumps({b"data": _Bomb()}))
    with pytest.raises(DataError, match="data_batch_1"):
        load_dataset(path)
    assert not (tmp_path / "bomb-went-off").exists()


def _one_class(tmp: Path) -> Path:
    return write_folder(tmp / "d", pixels(3), [0, 0, 0])


def _empty_class(tmp: Path) -> Path:
    root = write_folder(tmp / "d", pixels(4), [0, 0, 1, 1])
    (root / "void").mkdir()
    return root


def _single(tmp: Path) -> Path:
    return write_folder(tmp / "d", pixels(3), [0, 0, 1])


def _unreadable(tmp: Path) -> Path:
    root = write_folder(tmp / "d", pixels(4), [0, 0, 1, 1])
    (root / "class1" / "broken.png").write_bytes(b"no image")
    return root


def _missing_column(tmp: Path) -> Path:
    pq.write_table(pa.table({"img": [{"bytes": b"", "path": ""}]}), tmp / "a.parquet")
    return tmp / "a.parquet"


def _no_images(tmp: Path) -> Path:
    pq.write_table(pa.table({"x": [1, 2], "label": [0, 1]}), tmp / "a.parquet")
    return tmp / "a.parquet"


def _missing_label(tmp: Path) -> Path:
    return write_parquet(tmp / "a.parquet", pixels(3), [0, 1, None])


def _float_label(tmp: Path) -> Path:
    return write_parquet(tmp / "a.parquet", pixels(3), [0.0, 1.0, float("nan")])


def _negative_label(tmp: Path) -> Path:
    return write_parquet(tmp / "a.parquet", pixels(4), [0, 1, 1, -1])


def _cut_parquet(tmp: Path) -> Path:
    path = write_parquet(tmp / "a.parquet", pixels(4), [0, 1, 0, 1])
    path.write_bytes(path.read_bytes()[:-50])
    return path


def _cut_archive(tmp: Path) -> Path:
    folder = write_cifar(tmp / "c", pixels(16, side=32), [0, 1] * 8)
    with tarfile.open(tmp / "c.tar.gz", "w:gz") as archive:
        archive.add(folder, "c")
    (tmp / "c.tar.gz").write_bytes((tmp / "c.tar.gz").read_bytes()[:9000])
    return tmp / "c.tar.gz"


def _tiny(tmp: Path) -> Path:
    return write_folder(tmp / "d", pixels(4, side=4), [0, 0, 1, 1])


def _absent(tmp: Path) -> Path:
    return tmp / "nowhere"


BAD: dict[Callable[[Path], Path], str] = {
    _one_class: "two classes",
    _empty_class: "void",
    _single: "class1",
    _unreadable: "broken.png",
    _missing_column: "label",
    _no_images: "images",
    _missing_label: "row 2",
    _float_label: "label",
    _negative_label: "-1",
    _cut_parquet: "a.parquet",
    _cut_archive: "c.tar.gz",
    _tiny: "8",
    _absent: "nowhere",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_data_are_one_error_that_names_the_place(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=BAD[make]):
        load_dataset(make(tmp_path))


def test_bad_images_can_be_skipped_and_are_recorded(tmp_path: Path) -> None:
    dataset = load_dataset(_unreadable(tmp_path), skip_bad_images=True)
    assert len(dataset.images) == 4
    assert [Path(name).name for name, _ in dataset.skipped] == ["broken.png"]
