"""Readers: one a kind of source. Each gives a `Raw` data set, not yet cached."""

import io
import pickle
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from graftwork.datasets._convert import IMAGE_SUFFIXES, decode
from graftwork.errors import DataError

__all__ = ["Raw", "ReadOptions", "is_cifar_folder", "read_cifar", "read_digits", "read_folder"]


@dataclass
class Raw:
    """A data set as it was read.

    Args:
        images: uint8 [N, H, W, C].
        labels: [N].
        class_names: In order of labels.
        test_images: ``None`` where the source has no test split.
        test_labels: Likewise.
        skipped: Name and reason.
    """

    images: NDArray[np.uint8]
    labels: NDArray[Any]
    class_names: tuple[str, ...]
    test_images: NDArray[np.uint8] | None = None
    test_labels: NDArray[Any] | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class ReadOptions:
    """How sources are read; see `load_dataset`."""

    image_size: int | tuple[int, int] | None = None
    image_column: str | None = None
    label_column: str | None = None
    skip_bad_images: bool = False


def read_digits(options: ReadOptions) -> Raw:
    """scikit-learn's bundled digits: 1,797 grey images of 8×8, values 0 … 16 scaled to 0 … 255."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)[..., None]
    return Raw(images, found.target.astype(np.int64), tuple(str(name) for name in found.target_names))


# CIFAR in its own format ---------------------------------------------------------------------------------------------


class _RestrictedUnpickler(pickle.Unpickler):
    """Admits only what CIFAR's files need: plain containers, strings, numbers and numpy arrays. Nothing is executed."""

    ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """Look up a type by name, from the list of allowed ones alone."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs")
        if module.startswith("numpy") and name == "_reconstruct":
            module = "numpy._core.multiarray"
        return super().find_class(module, name)


def _unpickle(stream: IO[bytes], where: str) -> dict[bytes, Any]:
    try:
        data = _RestrictedUnpickler(stream, encoding="bytes").load()
    except Exception as error:  # pickles fail in many ways
        raise DataError(f"{where}: not a CIFAR batch ({error}); nothing in it was executed") from error
    if not isinstance(data, dict):
        raise DataError(f"{where}: expected a CIFAR batch (a dictionary), got {type(data).__name__}")
    return data


def is_cifar_folder(path: Path) -> bool:
    """Whether a folder is ``cifar-10-batches-py``, or ``cifar-100-python``."""
    return (path / "data_batch_1").is_file() or ((path / "train").is_file() and (path / "meta").is_file())


def _batch(data: dict[bytes, Any], where: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pixels = data.get(b"data")
    labels = data.get(b"labels", data.get(b"fine_labels"))
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
        found = getattr(pixels, "shape", type(pixels).__name__), getattr(pixels, "dtype", "")
        raise DataError(f"{where}: expected 'data' as uint8 [N, 3072], got {found[0]} {found[1]}")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise DataError(f"{where}: expected {len(pixels)} labels, got {len(labels) if labels is not None else 'none'}")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.asarray(labels, dtype=np.int64)


def read_cifar(path: Path, options: ReadOptions) -> Raw:
    """CIFAR-10 or -100 in Python's format: a folder, or its ``.tar.gz`` read member by member, never unpacked."""
    files = dict(_cifar_members(path))
    if not files:
        raise DataError(f"{path}: holds no data_batch_1 … test_batch (nor train, test, meta); is it CIFAR for Python?")
    train_names = sorted(name for name in files if name.startswith("data_batch_")) or ["train"]
    test_name = "test_batch" if "test_batch" in files else "test"
    missing = [name for name in (*train_names, test_name) if name not in files]
    if missing:
        raise DataError(f"{path}: {', '.join(missing)} missing; it holds {', '.join(sorted(files))}")
    parts = [_batch(_unpickle(io.BytesIO(files[name]), f"{path}: {name}"), f"{path}: {name}") for name in train_names]
    test = _batch(_unpickle(io.BytesIO(files[test_name]), f"{path}: {test_name}"), f"{path}: {test_name}")
    meta_name = "batches.meta" if "batches.meta" in files else "meta"
    labels = np.concatenate([part[1] for part in parts])
    names: Iterable[bytes] = ()
    if meta_name in files:
        meta = _unpickle(io.BytesIO(files[meta_name]), f"{path}: {meta_name}")
        names = meta.get(b"label_names", meta.get(b"fine_label_names", ()))
    class_names = tuple(name.decode() for name in names) or tuple(str(i) for i in range(int(labels.max()) + 1))
    return Raw(np.concatenate([part[0] for part in parts]), labels, class_names, test[0], test[1])


def _cifar_members(path: Path) -> Iterable[tuple[str, bytes]]:
    wanted = {"test_batch", "batches.meta", "train", "test", "meta", *(f"data_batch_{i}" for i in range(1, 10))}
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.name in wanted:
                yield file.name, file.read_bytes()
        return
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = Path(member.name).name
                stream = archive.extractfile(member) if member.isfile() and name in wanted else None
                if stream is not None:
                    yield name, stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path}: the archive can't be read ({error}); it is damaged or cut off") from error


# Folders of images ---------------------------------------------------------------------------------------------------

_TRAIN_FOLDERS = ("train", "training")
_TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")


def _classes(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "_")))


def _listing(folder: Path, classes: list[str]) -> tuple[list[tuple[str, Path | bytes]], list[int]]:
    sources: list[tuple[str, Path | bytes]] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        if not files:
            raise DataError(
                f"{folder / name}: the class has no image; expected files ending in {', '.join(IMAGE_SUFFIXES)}"
            )
        sources += [(str(file), file) for file in files]
        labels += [label] * len(files)
    return sources, labels


def read_folder(path: Path, options: ReadOptions) -> Raw:
    """A sub-folder a class; or ``train/`` and ``test/`` (or ``val/``) folders of such sub-folders."""
    names = _classes(path)
    train = next((path / name for name in names if name.lower() in _TRAIN_FOLDERS), None)
    test = next((path / name for name in names if name.lower() in _TEST_FOLDERS), None) if train is not None else None
    root = train or path
    classes = _classes(root)
    if len(classes) < 2:
        loose = sum(1 for p in root.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        raise DataError(
            f"{root}: expected a sub-folder for each of at least two classes, got {', '.join(classes) or 'none'}"
            + (f" and {loose} images beside them" if loose else "")
        )
    sources, labels = _listing(root, classes)
    test_sources, test_labels = _test_listing(test, classes)
    images, kept, skipped = decode(
        [*sources, *test_sources],
        image_size=options.image_size,
        skip_bad_images=options.skip_bad_images,
        where=str(path),
    )
    every = np.asarray([*labels, *test_labels], dtype=np.int64)[kept]
    border = int(np.searchsorted(kept, len(sources)))
    raw = Raw(images[:border], every[:border], tuple(classes), skipped=skipped)
    if test is not None:
        raw.test_images, raw.test_labels = images[border:], every[border:]
    return raw


def _test_listing(test: Path | None, classes: list[str]) -> tuple[list[tuple[str, Path | bytes]], list[int]]:
    if test is None:
        return [], []
    extra = sorted(set(_classes(test)).symmetric_difference(classes))
    if extra:
        raise DataError(f"{test}: its classes differ from those of the training folder: {', '.join(extra)}")
    return _listing(test, classes)
