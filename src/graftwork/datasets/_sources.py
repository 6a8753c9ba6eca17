"""Data sets that come as arrays in a format of their own: scikit-learn's digits, and CIFAR for Python."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graftwork.datasets._convert import fit
from graftwork.datasets._listing import Raw, ReadOptions
from graftwork.datasets._survey import check_size, size_of
from graftwork.datasets._unpickle import UnsafePickleError, read_arrays
from graftwork.datasets._walk import Slice, Tree
from graftwork.errors import DataError


def read_digits() -> Raw:
    """scikit-learn's bundled digits: 1,797 grey images of 8×8, values 0 … 16 scaled to 0 … 255."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)[..., None]
    return Raw(images, found.target.astype(np.int64), tuple(str(name) for name in found.target_names))


# CIFAR in its own format ---------------------------------------------------------------------------------------------


_MOST = 2**28
"""Bytes: CIFAR-100 trains on one batch of 155 MB; a larger file is no batch."""
_WANTED = {"test_batch", "batches.meta", "train", "test", "meta", *(f"data_batch_{i}" for i in range(1, 6))}


def _content(file: Path | Slice, where: str) -> bytes:
    size = file.size if isinstance(file, Slice) else file.stat().st_size
    if size > _MOST:
        raise DataError(f"{where}: expected at most {_MOST:,} bytes in a CIFAR batch, got {size:,}; is it one?")
    return file.read_bytes()


def _unpickle(data: bytes, where: str) -> dict[str, Any]:
    try:
        return read_arrays(data)
    except (UnsafePickleError, ValueError) as error:
        raise DataError(
            f"{where}: expected a CIFAR batch, got something else ({error}); nothing in it was executed"
        ) from error


def cifar_files(tree: Tree) -> dict[str, Path | Slice]:
    """The files of CIFAR-10 or -100 in Python's format, by name; empty: it is something else."""
    found = {entry.parts[0]: entry.file for entry in tree.entries if len(entry.parts) == 1}
    there = "data_batch_1" in found or {"train", "meta"} <= found.keys()
    return {name: file for name, file in found.items() if name in _WANTED} if there else {}


def _batch(data: dict[str, Any], where: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pixels = data.get("data")
    labels = data.get("labels", data.get("fine_labels"))
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != 3072:
        found = getattr(pixels, "shape", type(pixels).__name__)
        raise DataError(f"{where}: expected 'data' as uint8 [N, 3072], got {found}")
    if not isinstance(labels, list) or len(labels) != len(pixels) or any(type(n) is not int for n in labels):
        found = f"a list of {len(labels)}" if isinstance(labels, list) else type(labels).__name__
        raise DataError(f"{where}: expected 'labels' as a list of {len(pixels)} integers, got {found}")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.asarray(labels, dtype=np.int64)


def read_cifar(found: Mapping[str, Path | Slice], path: Path, options: ReadOptions) -> Raw:
    """Read CIFAR-10 or -100 in Python's format.

    Args:
        found: The files that `cifar_files` finds.
        path: Folder or archive, as messages name it.
        options: How it is read.
    """
    files = {name: _content(file, f"{path}: {name}") for name, file in found.items()}
    ten = any(name.startswith("data_batch_") for name in files)
    train_names = [f"data_batch_{number}" for number in range(1, 6)] if ten else ["train"]
    test_name, meta_name = ("test_batch", "batches.meta") if ten else ("test", "meta")
    missing = [name for name in (*train_names, test_name, meta_name) if name not in files]
    if missing:
        raise DataError(f"{path}: expected {', '.join(missing)} too, got only {', '.join(sorted(files))}")
    parts = [_batch(_unpickle(files[name], f"{path}: {name}"), f"{path}: {name}") for name in train_names]
    test = _batch(_unpickle(files[test_name], f"{path}: {test_name}"), f"{path}: {test_name}")
    images, test_images = np.concatenate([part[0] for part in parts]), test[0]
    if options.image_size is not None:
        shape = (*check_size(size_of(options.image_size), str(path)), 3)
        images, test_images = (
            np.stack([fit(Image.fromarray(np.ascontiguousarray(image)), shape) for image in part])
            for part in (images, test_images)
        )
    names = _names(_unpickle(files[meta_name], f"{path}: {meta_name}"), f"{path}: {meta_name}")
    return Raw(images, np.concatenate([part[1] for part in parts]), names, test_images, test[1])


def _names(meta: dict[str, Any], where: str) -> tuple[str, ...]:
    found = meta.get("label_names", meta.get("fine_label_names"))
    if not isinstance(found, list) or not all(isinstance(name, bytes | str) for name in found):
        raise DataError(f"{where}: expected 'label_names', a list of class names, got {found!r}")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in found)
