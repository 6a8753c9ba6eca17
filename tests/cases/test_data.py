"""Images as people have them: read, or counted as passed over, or refused before anything is trained."""

import importlib.util
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import features
from torch import Tensor, nn

import graftwork as gw
from graftwork.errors import DataError
from tests.cases.commands import RESUME, graftwork, own_process, require, started, tiny_search, wait_until
from tests.cases.images import class_folders, picture, png, table

COLOUR: Any = {"shape": (3, 12, 12), "classes": 3}


def test_a_small_data_set_is_searched_to_the_end_or_refused_before_training(tmp_path: Path) -> None:
    """72 images: the whole search runs, then it ends in an error without a result, as does every resume."""
    data, run = class_folders(tmp_path / "data", "abc", images=24), tmp_path / "run"
    graftwork(*tiny_search(tmp_path, **COLOUR, data=data))
    trained = list(run.glob("checkpoints/*"))
    if trained and not (run / "result.json").exists():
        graftwork(*RESUME, run)
    assert (run / "result.json").exists() or not trained


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """A folder bus, car, train is refused, because `train` holds images and no classes."""
    data = class_folders(tmp_path, ("bus", "car", "train"))
    assert gw.load_dataset(data).class_names == ("bus", "car", "train")


def _underscore(folder: Path) -> int:
    class_folders(folder, ("cat", "dog", "_background_"))
    return 24


def _rare_endings(folder: Path) -> int:
    class_folders(folder, ("a", "b"), ending="jpg")
    endings = [("jfif", "JPEG"), *([("avif", "AVIF")] if features.check("avif") else [])]
    for ending, kind in endings:
        for number in range(5):
            picture(0, np.random.default_rng(number)).save(folder / "a" / f"{number}.{ending}", format=kind)
    return 16 + 5 * len(endings)


def _linked_folder(folder: Path) -> int:
    class_folders(folder, ("a", "b"))
    other = class_folders(folder.with_name("other"), ("c",))
    (folder / "a" / "more").symlink_to(other / "c", target_is_directory=True)
    return 24


@pytest.mark.parametrize("make", [_underscore, _rare_endings, _linked_folder])
def test_every_image_of_a_folder_is_read_or_counted_as_skipped(make: Callable[[Path], int], tmp_path: Path) -> None:
    """A class `_background_`, .jfif and .avif files, and a linked sub-folder are lost without a word."""
    images = make(tmp_path / "data")
    found = gw.load_dataset(tmp_path / "data")
    assert len(found.images) + len(found.skipped) == images


def _with_odd_exif(photo: bytes) -> bytes:
    """The same JPEG, to be turned by a quarter, with a tag in front whose value Pillow reads but can't write."""
    turned, offsets = (0x0112, 3, struct.pack("<HH", 6, 0)), (0x0111, 4, b"\xff\xff\xff\xff")
    entries = b"".join(struct.pack("<HHI", tag, kind, 1) + value for tag, kind, value in (turned, offsets))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)
    return photo[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + photo[2:]


@pytest.mark.parametrize("skip", [False, True])
def test_a_photo_with_odd_exif_is_used_or_named(skip: bool, tmp_path: Path) -> None:
    """The pixels are fine, but turning them rewrites the EXIF data, and that is a traceback."""
    data = class_folders(tmp_path, "ab", ending="jpg")
    photo = data / "a" / "0.jpg"
    photo.write_bytes(_with_odd_exif(photo.read_bytes()))
    named = str(photo)
    try:
        found = gw.load_dataset(data, skip_bad_images=skip)
        assert len(found.images) + len(found.skipped) == 16
    except DataError as error:
        named = "" if skip else str(error)
    assert str(photo) in named


def _rows(labels: Any) -> tuple[pa.Array, Any]:
    return pa.array([{"bytes": png(255 * (row % 2)), "path": None} for row in range(12)]), labels


TEXTS = ["night", "day"] * 6


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        pytest.param(pa.array(TEXTS).dictionary_encode(), {"night", "day"}, id="category"),
        pytest.param(pa.array([text == "day" for text in TEXTS]), {"false", "true"}, id="bool"),
        pytest.param(pa.array(TEXTS, pa.string_view()), {"night", "day"}, id="string_view"),
    ],
)
def test_labels_of_any_type_that_has_a_text_are_read(labels: Any, names: set[str], tmp_path: Path) -> None:
    """The categories of a pandas frame, booleans and string views are refused."""
    found = gw.load_dataset(table(tmp_path / "x.parquet", *_rows(labels)))
    assert {name.lower() for name in found.class_names} == names


def test_texts_in_one_file_and_numbers_in_another_are_one_error_that_names_the_files(tmp_path: Path) -> None:
    """Labels of two types are compared with each other: a traceback."""
    table(tmp_path / "train-0.parquet", *_rows(TEXTS))
    table(tmp_path / "train-1.parquet", *_rows([0, 1] * 6))
    with pytest.raises(DataError) as refused:
        gw.load_dataset(tmp_path)
    assert all(f"train-{number}.parquet" in str(refused.value) for number in (0, 1))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file name is text")
def test_an_image_whose_name_is_not_utf8_is_read(tmp_path: Path) -> None:
    """One file name in Latin-1 bytes, from an old archive, is a traceback."""
    data = class_folders(tmp_path, "ab")
    (data / "a" / "0.png").rename(data / "a" / os.fsdecode(b"caf\xe9.png"))
    found = gw.load_dataset(data)
    assert len(found.images) + len(found.skipped) == 16


@pytest.mark.slow
def test_a_second_process_is_kept_out_of_a_run_that_is_being_made(tmp_path: Path) -> None:
    """Two processes train in one folder, and every generation is recorded twice."""
    run = tmp_path / "run"
    search = tiny_search(tmp_path, "--initial-steps", 2000, "--checkpoint-every", 0.5)
    with started(own_process(*search)) as first:
        checkpoints = run / "checkpoints"
        wait_until(lambda: first.poll() is not None or list(checkpoints.glob("*/state.json")), "the first checkpoint")
        require(first.poll() is None, "the first process still searches")
        second = graftwork(*RESUME, run)
    assert second.code != 0


@pytest.fixture(scope="module")
def colour_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on colour images, whose folder was named by a relative path."""
    folder = tmp_path_factory.mktemp("colour")
    class_folders(folder / "images", "abc", images=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ending = graftwork(*tiny_search(folder, "--blend", 10, **COLOUR, data="images"))
    require(ending.code == 0, ending.text)
    return folder / "run"


def test_a_run_is_resumed_from_another_working_folder(
    colour_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--data images` is looked for in the folder where the resume is typed, and then on the hub."""
    shutil.copytree(colour_run, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    monkeypatch.chdir(tmp_path)
    assert graftwork(*RESUME, tmp_path / "run").code == 0


@pytest.fixture(scope="module")
def exported(colour_run: Path, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """A network for colour images of 12 × 12 pixels, loaded from an export as its own users do."""
    folder = tmp_path_factory.mktemp("exported") / "out"
    ending = graftwork("export", colour_run, "--out", folder)
    require(ending.code == 0, ending.text)
    made = importlib.util.spec_from_file_location("exported_model", folder / "model.py")
    require(made, "an export has a file model.py")
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    network = module.load()
    with torch.no_grad():
        require(network(torch.rand(2, 3, 12, 12)).shape == (2, 3), "it takes images from 0 to 1")
    return network


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(torch.full((1, 3, 12, 12), 200, dtype=torch.uint8), id="uint8"),
        pytest.param(torch.full((1, 1, 12, 12), 0.8), id="one channel"),
        pytest.param(torch.full((1, 3, 24, 12), 0.8), id="another size"),
        pytest.param(torch.full((1, 3, 12, 12), 200.0), id="values to 255"),
        pytest.param(torch.full((3, 12, 12), 0.8), id="no batch"),
    ],
)
def test_an_exported_model_refuses_images_of_another_kind(images: Tensor, exported: nn.Module) -> None:
    """Bytes from 0 to 255 and single channels are broadcast: wrong probabilities, and no error."""
    with torch.no_grad(), pytest.raises((TypeError, ValueError, RuntimeError)):
        exported(images)


def test_a_world_size_that_is_left_over_is_ignored_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without RANK and MASTER_ADDR beside it, the search ends in a traceback of torch.distributed."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    ending = graftwork(*tiny_search(tmp_path))
    assert ending.code == 0 or (ending.code == 2 and "WORLD_SIZE" in ending.text)
