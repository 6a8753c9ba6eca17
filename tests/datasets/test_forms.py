"""Data as people have them: every form gives the images, classes and splits that went in."""

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

from graftwork.datasets import ImageDataset, describe, load_dataset, split
from graftwork.errors import DataError
from tests.datasets.test_sources import encoded, write_folder, write_parquet

NAMES = ["cat", "dog"] * 4
IMAGES = np.random.default_rng(7).integers(0, 256, (8, 10, 10, 3), dtype=np.uint8)


def same(found: ImageDataset, images: Any = IMAGES, names: list[str] = NAMES) -> None:
    """Each image has the class that it was given, in whatever order they are."""
    given = {image.tobytes(): name for image, name in zip(images, names, strict=True)}
    pairs = zip(np.asarray(found.images), found.labels, strict=True)
    read = {image.tobytes(): found.class_names[label] for image, label in pairs}
    assert read == given


def photos(folder: Path) -> list[str]:
    """Image files in a folder, without folders of classes."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(IMAGES):
        (folder / f"{number}.png").write_bytes(encoded(image))
    return [f"{number}.png" for number in range(8)]


# Tables of paths -----------------------------------------------------------------------------------------------------


def sheet(path: Path, rows: list[list[Any]], *, header: str | None = "path,label", mark: str = ",") -> Path:
    lines = ([] if header is None else [header.replace(",", mark)]) + [mark.join(map(str, row)) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "header", "mark"),
    [
        ("x.csv", "path,label", ","),
        ("x.csv", "Species,File_Name", ";"),
        ("x.tsv", "image,class", "\t"),
        ("X.CSV", "\ufefffile,what it shows", ","),
        ("x.csv", None, ","),
    ],
)
def test_a_table_of_paths_and_labels_is_read(name: str, header: str | None, mark: str, tmp_path: Path) -> None:
    rows: list[list[Any]] = [
        [f"photos/{file}", label] for file, label in zip(photos(tmp_path / "photos"), NAMES, strict=True)
    ]
    if header is not None and header.startswith("Species"):
        rows = [row[::-1] for row in rows]
    same(load_dataset(sheet(tmp_path / name, rows, header=header, mark=mark)))


def test_a_column_says_the_split_of_each_row(tmp_path: Path) -> None:
    splits = ["Test", "train", "val", "train"] * 2
    rows = [list(row) for row in zip(photos(tmp_path), NAMES, splits, strict=True)]
    found = load_dataset(sheet(tmp_path / "x.csv", rows, header="path,label,split"))
    assert found.validation is not None
    assert found.test_images is not None
    assert (len(found.images), found.validation.tolist(), len(found.test_images)) == (6, [4, 5], 2)
    assert np.array_equal(found.test_images, IMAGES[[0, 4]])
    assert np.array_equal(np.asarray(found.images)[found.validation], IMAGES[[2, 6]])


def test_labels_that_are_numbers_keep_their_order_and_names_of_no_label_are_refused(tmp_path: Path) -> None:
    files = photos(tmp_path)
    rows = [[file, label] for file, label in zip(files, [10, 2] * 4, strict=True)]
    assert load_dataset(sheet(tmp_path / "x.csv", rows)).class_names == ("2", "10")
    with pytest.raises(DataError, match=r"y\.csv: row 9, 7\.png: expected a label"):
        load_dataset(sheet(tmp_path / "y.csv", [*rows[:-1], [files[-1], " "]]))


def test_paths_lead_nowhere_but_below_the_table_or_the_root_that_is_named(tmp_path: Path) -> None:
    files = photos(tmp_path / "elsewhere")
    for paths in ([str(tmp_path / "elsewhere" / file) for file in files], [f"../elsewhere/{file}" for file in files]):
        rows = [list(row) for row in zip(paths, NAMES, strict=True)]
        path = sheet(tmp_path / "tables" / "x.csv", rows)
        with pytest.raises(DataError, match=r"row 2.*below .*--image-root"):
            load_dataset(path)
        same(load_dataset(path, image_root=tmp_path / "elsewhere"))


def test_paths_written_on_windows_are_read(tmp_path: Path) -> None:
    rows = [[f"photos\\{file}", label] for file, label in zip(photos(tmp_path / "photos"), NAMES, strict=True)]
    same(load_dataset(sheet(tmp_path / "x.csv", rows)))


def test_a_missing_file_is_named_with_its_row_or_left_out(tmp_path: Path) -> None:
    rows = [list(row) for row in zip([*photos(tmp_path), "9.png"], [*NAMES, "cat"], strict=True)]
    path = sheet(tmp_path / "x.csv", rows)
    with pytest.raises(DataError, match=r"x\.csv: row 10, 9\.png"):
        load_dataset(path)
    found = load_dataset(path, skip_bad_images=True)
    same(found)
    assert "row 10" in found.skipped[0][0]


def test_a_changed_image_of_a_table_is_read_again(tmp_path: Path) -> None:
    path = sheet(tmp_path / "x.csv", [list(row) for row in zip(photos(tmp_path), NAMES, strict=True)])
    first = load_dataset(path)
    (tmp_path / "0.png").write_bytes(encoded(IMAGES[0] // 2))
    assert load_dataset(path).fingerprint != first.fingerprint


BAD_TABLES = {
    "no label": ("path,x,y2", "{0},1,2", "expected a label column, got none among path, x, y2"),
    "two images": ("a,b,label", "{0},{0},cat", "expected one column of images, got a, b"),
    "a short row": ("path,label", "{0}", "expected 2 cells in row 2, got 1"),
    "a split of another name": ("path,label,split", "{0},cat,fold3", "expected train, validation or test"),
    "equal columns": ("path,label,label", "{0},cat,cat", "a name for every column"),
    "a group left empty": ("path,label,patient", "{0},cat,", "expected a group in every row"),
}


@pytest.mark.parametrize("bad", BAD_TABLES)
def test_a_table_that_can_not_be_used_is_one_error(bad: str, tmp_path: Path) -> None:
    header, row, message = BAD_TABLES[bad]
    path = sheet(tmp_path / "x.csv", [[row.format(photos(tmp_path)[0])]], header=header)
    with pytest.raises(DataError, match=message):
        load_dataset(path, group_column="patient" if "patient" in header else None)


# Arrays --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "images",
    [
        IMAGES,
        IMAGES.transpose(0, 3, 1, 2),
        IMAGES.astype(np.int64),
        (IMAGES / 255).astype(np.float32),
        IMAGES.astype(np.float64),
        (IMAGES * 257.0).astype(np.uint16),
        list(IMAGES),
        [Image.fromarray(image) for image in IMAGES],
        torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255,
    ],
    ids=lambda images: f"{type(images).__name__} {getattr(images, 'dtype', '')}",
)
def test_arrays_of_any_usual_kind_are_read(images: Any) -> None:
    same(load_dataset((images, NAMES)))


def test_grey_arrays_stay_grey() -> None:
    assert load_dataset((IMAGES[..., 0], np.arange(8) % 2)).shape == (10, 10, 1)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES / 127.5 - 1, NAMES, "not normalised"),
        (IMAGES[..., [0] * 5], NAMES, "reshape"),
        (IMAGES, NAMES[:-1], "label of each of 8"),
        (IMAGES, np.eye(8), "expected a number or a text"),
        (np.array(["a"] * 8), NAMES, "reshape"),
    ],
)
def test_arrays_of_another_kind_are_one_error(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset((images, labels))


@pytest.mark.parametrize(
    "names", [("x_train", "y_train", "x_test", "y_test"), ("images", "labels", "test_images", "test_labels")]
)
def test_a_file_of_arrays_is_read(names: tuple[str, ...], tmp_path: Path) -> None:
    arrays = (IMAGES[:6], np.array(NAMES[:6]), IMAGES[6:], np.array(NAMES[6:]))
    np.savez_compressed(tmp_path / "x.npz", **dict(zip(names, arrays, strict=True)))
    found = load_dataset(tmp_path / "x.npz")
    same(found, IMAGES[:6], NAMES[:6])
    assert found.test_images is not None
    assert np.array_equal(found.test_images, IMAGES[6:])


def test_a_file_of_python_objects_is_refused_and_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=np.array([{"a": 1}] * 8, dtype=object))
    with pytest.raises(DataError, match="Python objects"):
        load_dataset(tmp_path / "x.npz")


# What a program holds ------------------------------------------------------------------------------------------------


class Pairs(Dataset[Any]):
    """A data set of torch as people write them."""

    classes = ("cat", "dog")

    def __init__(self, kind: Callable[[Any], Any]) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return self.kind(index)


def tensor(index: int) -> Any:
    return torch.from_numpy(IMAGES[index]).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize(
    "kind",
    [
        lambda index: (Image.fromarray(IMAGES[index]), index % 2),
        lambda index: (tensor(index), torch.tensor(index % 2)),
        lambda index: {"image": IMAGES[index], "label": np.int64(index % 2)},
        lambda index: {"pixel_values": tensor(index), "labels": index % 2},
    ],
)
def test_a_data_set_of_torch_is_read_with_its_classes(kind: Callable[[int], Any]) -> None:
    same(load_dataset(Pairs(kind)))
    same(load_dataset(Subset(Pairs(kind), range(6))), IMAGES[:6], NAMES[:6])


def test_tensors_and_splits_are_read() -> None:
    data = TensorDataset(torch.stack([tensor(index) for index in range(8)]), torch.arange(8) % 2)
    found = load_dataset({"test": Subset(data, range(6, 8)), "train": Subset(data, range(6))})
    same(found, IMAGES[:6], ["0", "1"] * 3)
    assert found.test_images is not None
    assert len(found.test_images) == 2


def test_splits_that_number_classes_differently_are_matched_by_name() -> None:
    other = Pairs(lambda index: (Image.fromarray(IMAGES[index] // 2), (index + 1) % 2))
    other.classes = ("dog", "cat")
    found = load_dataset({"train": Pairs(lambda index: (Image.fromarray(IMAGES[index]), index % 2)), "test": other})
    assert found.test_labels is not None
    assert [found.class_names[label] for label in found.test_labels] == NAMES


class Frame:
    """What is used of a frame of the optional package pandas."""

    def __init__(self, **columns: Any) -> None:
        self._columns = {name: np.array(cells, dtype=object) for name, cells in columns.items()}
        self.columns = list(columns)

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]


Frame.__module__ = "pandas.core.frame"


def test_a_frame_is_read_by_its_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = photos(tmp_path / "photos")
    splits = ["train"] * 6 + ["validation"] * 2
    frame = Frame(
        path=[tmp_path / "photos" / file for file in files], label=NAMES, split=splits, owner=list("aabbccdd")
    )
    found = load_dataset(frame, group_column="owner")
    same(found)
    assert found.validation is not None
    assert found.validation.tolist() == [6, 7]
    monkeypatch.chdir(tmp_path / "photos")
    same(load_dataset(Frame(image=files, target=NAMES)))
    same(load_dataset(Frame(image=[encoded(image) for image in IMAGES], target=NAMES)))


def test_labels_of_a_frame_may_be_whole_floats_but_not_missing() -> None:
    images = [encoded(image) for image in IMAGES]
    assert load_dataset(Frame(image=images, label=[0.0, 1.0] * 4)).class_names == ("0", "1")
    with pytest.raises(DataError, match=r"row 7: expected a label in every row"):
        load_dataset(Frame(image=images, label=[0.0, 1.0] * 3 + [0.0, float("nan")]))


def test_a_real_frame_and_a_real_hugging_face_data_set_are_read(tmp_path: Path) -> None:
    pandas, hugging_face = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    path = write_parquet(tmp_path / "x.parquet", IMAGES, NAMES, kind="PNG")
    same(load_dataset(pandas.read_parquet(path)))
    features = hugging_face.Features(img=hugging_face.Image(), label=hugging_face.ClassLabel(names=["cat", "dog"]))
    rows = {"img": [Image.fromarray(image) for image in IMAGES], "label": [0, 1] * 4}
    part = hugging_face.Dataset.from_dict(rows, features=features)
    same(load_dataset(part))
    same(load_dataset(hugging_face.DatasetDict(train=part, test=part.select(range(2)))))


@pytest.mark.parametrize("source", [7, None, [], types.SimpleNamespace(), {"fold1": (IMAGES, NAMES)}, iter(())])
def test_anything_else_is_one_error(source: Any) -> None:
    with pytest.raises(DataError):
        load_dataset(source)


# Folders -------------------------------------------------------------------------------------------------------------


def test_a_folder_val_is_the_validation_split_and_the_test_split_is_held_out(tmp_path: Path) -> None:
    write_folder(tmp_path / "d" / "train", np.concatenate([IMAGES, IMAGES // 2]), [0, 1] * 8)
    write_folder(tmp_path / "d" / "val", 255 - IMAGES[:4], [0, 1] * 2)
    found = load_dataset(tmp_path / "d")
    splits = split(found, seed=0, blend=0)
    assert found.test_images is None
    assert np.array_equal(np.asarray(found.images)[splits.validation], (255 - IMAGES[:4])[[0, 2, 1, 3]])
    assert len(splits.test) >= 2
    assert describe(found, splits)["validation_split"] == "given"


def test_splits_without_one_to_train_on_are_refused(tmp_path: Path) -> None:
    for name in ("test", "val"):
        write_folder(tmp_path / "d" / name, IMAGES, [0, 1] * 4)
    with pytest.raises(DataError, match="expected a folder train beside test, val"):
        load_dataset(tmp_path / "d")


@pytest.mark.parametrize("option", ["group_column", "image_root"])
def test_options_of_tables_are_refused_for_other_data(option: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=option.replace("_", "-")):
        load_dataset(write_folder(tmp_path / "d", IMAGES, [0, 1] * 4), **{option: "patient"})  # type: ignore[arg-type]
