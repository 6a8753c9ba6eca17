"""Archives: zip, tar and WebDataset shards are read like the folders that went in."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graftwork.datasets import load_dataset
from graftwork.errors import DataError
from tests.datasets.test_forms import IMAGES, NAMES, same
from tests.datasets.test_sources import encoded


def class_files() -> dict[str, bytes]:
    return {f"{NAMES[number]}/{number}.png": encoded(image) for number, image in enumerate(IMAGES)}


def listed_files() -> dict[str, bytes]:
    files = {f"train/{number}.png": encoded(image) for number, image in enumerate(IMAGES)}
    rows = [f"train/{number}.png,{name}" for number, name in enumerate(NAMES)]
    return {**files, "train.csv": "\n".join(["file,class", *rows]).encode()}


def samples() -> dict[str, bytes]:
    files = {f"{number:04}.png": encoded(image) for number, image in enumerate(IMAGES)}
    return {**files, **{f"{number:04}.cls": name.encode() for number, name in enumerate(NAMES)}}


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:" + ("" if path.suffix == ".tar" else path.suffix[1:])) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("files", [class_files, listed_files, samples])
@pytest.mark.parametrize(("name", "top"), [("x.zip", ""), ("x.zip", "photos/"), ("x.tar.xz", "my/photos/")])
def test_an_archive_is_read_like_a_folder(
    files: Callable[[], dict[str, bytes]], name: str, top: str, tmp_path: Path
) -> None:
    write = zipped if name.endswith("zip") else tarred
    found = load_dataset(write(tmp_path / name, {top + file: data for file, data in files().items()}))
    same(found)
    assert found.skipped == ()


def test_shards_are_split_by_the_words_in_their_names(tmp_path: Path) -> None:
    parts = list(samples().items())
    for name, rows in (("train-0", slice(0, 4)), ("train-1", slice(4, 6)), ("val-0", slice(6, 8))):
        chosen = {file: data for file, data in parts if int(file[:4]) in range(8)[rows]}
        tarred(tmp_path / f"{name}.tar", chosen)
    found = load_dataset(tmp_path)
    same(found)
    assert found.validation is not None
    assert np.array_equal(np.asarray(found.images)[found.validation], IMAGES[6:])


def test_labels_of_samples_may_stand_in_json(tmp_path: Path) -> None:
    extra = {f"{n:04}.json": json.dumps({"animal": name}).encode() for n, name in enumerate(NAMES)}
    files = {name: data for name, data in samples().items() if name.endswith("png")}
    for number, wrong in enumerate(({f"{n:04}.cls": b"0" for n in range(8)}, {})):
        shard = tarred(tmp_path / f"{number}.tar", {**files, **wrong, **extra})
        same(load_dataset(shard, label_column="animal"))


@pytest.mark.parametrize("write", [zipped, tarred])
@pytest.mark.parametrize("name", ["../a/0.png", "/a/0.png", "a/../../0.png", "..\\0.png", "a/" * 40 + "0.png"])
def test_an_archive_with_names_that_lead_out_of_it_is_refused(
    name: str, write: Callable[[Path, dict[str, bytes]], Path], tmp_path: Path
) -> None:
    path = write(tmp_path / f"x.{'zip' if write is zipped else 'tar'}", {**class_files(), name: b""})
    with pytest.raises(DataError, match=r"expected names of files below it"):
        load_dataset(path)


def test_what_an_archive_holds_besides_is_counted(tmp_path: Path) -> None:
    more = {"readme.txt": b"x", "__MACOSX/cat/._0.png": b"x", "loose.png": encoded(IMAGES[0]), "cat/inner.zip": b"x"}
    found = load_dataset(zipped(tmp_path / "x.zip", {**class_files(), **more}))
    same(found)
    assert {reason for _, reason in found.skipped} == {
        "1 files: no images (.txt)",
        "1 images: in no class or split",
        "1 files: no images (.zip)",
    }
