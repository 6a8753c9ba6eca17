"""Readers, one for each kind of source. Each returns a `Raw` data set, not yet cached."""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graftwork.datasets._convert import fit
from graftwork.datasets._decode import Progress, decode
from graftwork.datasets._survey import check_size, size_of
from graftwork.datasets._thin import thin
from graftwork.datasets._unpickle import UnsafePickleError, read_arrays
from graftwork.datasets._walk import IMAGE_SUFFIXES, foreign_images, image_files, shown, visible
from graftwork.errors import DataError


@dataclass
class Raw:
    """A data set as it was read.

    Args:
        images: Images, uint8 [N, H, W, C].
        labels: Class of each image [N].
        class_names: Names of the classes, in order of labels.
        test_images: Images of the test split; ``None`` where the source has none.
        test_labels: Class of each of these; ``None`` likewise.
        skipped: Name of each image that was left out, with the reason.
    """

    images: NDArray[np.uint8]
    labels: NDArray[Any]
    class_names: tuple[str, ...]
    test_images: NDArray[np.uint8] | None = None
    test_labels: NDArray[Any] | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class ReadOptions:
    """How sources are read; see `load_dataset`. Who hears of the progress makes no other data set."""

    image_size: int | tuple[int, int] | None = None
    image_column: str | None = None
    label_column: str | None = None
    skip_bad_images: bool = False
    max_images: int | None = None
    progress: Progress | None = field(default=None, repr=False, compare=False)


def read_digits(options: ReadOptions) -> Raw:
    """scikit-learn's bundled digits: 1,797 grey images of 8×8, values 0 … 16 scaled to 0 … 255."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)[..., None]
    return Raw(images, found.target.astype(np.int64), tuple(str(name) for name in found.target_names))


# CIFAR in its own format ---------------------------------------------------------------------------------------------


_MOST = 2**28
"""Bytes: CIFAR-100 trains on one batch of 155 MB; a file, or a member of an archive, that claims more is no batch."""


def _unpickle(data: bytes, where: str) -> dict[str, Any]:
    try:
        return read_arrays(data)
    except (UnsafePickleError, ValueError) as error:
        raise DataError(
            f"{where}: expected a CIFAR batch, got something else ({error}); nothing in it was executed"
        ) from error


def is_cifar_folder(path: Path) -> bool:
    """Whether a folder is ``cifar-10-batches-py``, or ``cifar-100-python``."""
    return (path / "data_batch_1").is_file() or ((path / "train").is_file() and (path / "meta").is_file())


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


def read_cifar(path: Path, options: ReadOptions) -> Raw:
    """Read CIFAR-10 or -100 in Python's format: a folder, or its ``.tar.gz`` member by member, never unpacked."""
    files = dict(_cifar_members(path))
    if not files:
        raise DataError(
            f"{path}: expected data_batch_1 … test_batch (or train, test, meta), got none of them; "
            "take the version of CIFAR for Python"
        )
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


_MAGIC: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}


def _unpacked(path: Path) -> Any:
    """The archive as a stream, whatever it is packed with."""
    with path.open("rb") as file:
        return _MAGIC.get(file.read(2), open)(path, "rb")


class _Bounded(io.RawIOBase):
    """A stream that is an error after twice the size of CIFAR: a small archive may unpack to any size."""

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__()
        self._file, self._path, self._left = file, path, 2 * _MOST

    def read(self, size: int = -1, /) -> bytes:
        """Some bytes, at most as many as are asked for."""
        data: bytes = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise DataError(f"{self._path}: expected at most {2 * _MOST:,} bytes in an archive of CIFAR, got more")
        return data


def _cifar_members(path: Path) -> Iterable[tuple[str, bytes]]:
    wanted = {"test_batch", "batches.meta", "train", "test", "meta", *(f"data_batch_{i}" for i in range(1, 6))}
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.name in wanted and file.is_file():
                if (size := file.stat().st_size) > _MOST:
                    raise DataError(f"{file}: expected at most {_MOST} bytes in a CIFAR batch, got {size}")
                yield file.name, file.read_bytes()
        return
    try:
        with _unpacked(path) as plain, tarfile.open(fileobj=_Bounded(plain, path), mode="r|") as archive:
            yield from _archived(archive, wanted, path)
    except DataError:
        raise
    except Exception as error:  # gzip, xz and tar raise errors of many kinds, also of Python's own
        raise DataError(
            f"{path}: expected an archive, got one that can't be read ({error}); it is damaged or cut off"
        ) from error


def _archived(archive: tarfile.TarFile, wanted: set[str], path: Path) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        name = Path(member.name).name
        if not member.isfile() or name not in wanted:
            continue
        if member.size > _MOST:
            raise DataError(f"{path}: expected at most {_MOST} bytes in a CIFAR batch, got {member.size} in {name}")
        stream = archive.extractfile(member)
        yield name, b"" if stream is None else stream.read()


# Folders of images ---------------------------------------------------------------------------------------------------

_TRAIN_FOLDERS = ("train", "training")
_TEST_FOLDERS = ("test", "testing")
_VALIDATION_FOLDERS = ("val", "valid", "validation")


def _classes(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and visible(p.name))


def _loose(folder: Path) -> int:
    """Number of images that lie in a folder itself."""
    return sum(1 for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and visible(p.name))


def _splits(folder: Path, named: dict[str, Path]) -> dict[str, Path]:
    """The folders among those named like splits that are splits: they hold folders, not images.

    Raises:
        DataError: If one of them is a split and another a class.
    """
    words = {*_TRAIN_FOLDERS, *_TEST_FOLDERS, *_VALIDATION_FOLDERS}
    found = {name: path for name, path in named.items() if name in words}
    classes = sorted(name for name, path in found.items() if _loose(path))
    if not classes:
        return found
    if len(classes) < len(found):
        raise DataError(
            f"{shown(folder)}: expected folders of classes in {', '.join(sorted(found))}, got images in "
            f"{', '.join(classes)} itself; move them into a folder of their class"
        )
    return {}  # classes that are called so


def _listing(folder: Path, classes: list[str]) -> tuple[list[tuple[str, Path | bytes]], list[int]]:
    sources: list[tuple[str, Path | bytes]] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = image_files(folder / name)
        if not files:
            raise DataError(
                f"{shown(folder / name)}: expected images of the class, files ending in {', '.join(IMAGE_SUFFIXES)}, "
                "got none; add some, or remove the folder"
            )
        sources += [(shown(file), file) for file in files]
        labels += [label] * len(files)
    return sources, labels


def _split_folders(path: Path) -> tuple[list[Path], Path | None]:
    """Folders to train on, and the test folder; validation images are for training where there is a test folder."""
    named = _splits(path, {name.lower(): path / name for name in _classes(path)})
    train, test, validation = (
        next((named[word] for word in words if word in named), None)
        for words in (_TRAIN_FOLDERS, _TEST_FOLDERS, _VALIDATION_FOLDERS)
    )
    if train is None:
        return [path], None
    if test is None:
        return [train], validation
    return [train] if validation is None else [train, validation], test


def read_folder(path: Path, options: ReadOptions) -> Raw:
    """Read a folder with a sub-folder for each class, or ``train/`` and ``test/`` (else ``val/``) folders of these."""
    roots, test = _split_folders(path)
    root = roots[0]
    classes = _classes(root)
    if len(classes) < 2:
        loose = _loose(root)
        raise DataError(
            f"{root}: expected a sub-folder for each of at least two classes, got {', '.join(classes) or 'none'}"
            + (f" and {loose} images that are in none" if loose else "")
        )
    sources, labels = _listing(root, classes)
    for more in roots[1:]:
        more_sources, more_labels = _same_classes(more, classes)
        sources, labels = sources + more_sources, labels + more_labels
    test_sources, test_labels = ([], []) if test is None else _same_classes(test, classes)
    groups = [(label, "train") for label in labels] + [(label, "test") for label in test_labels]
    rows, both = thin(groups, options.max_images), [*sources, *test_sources]
    images, kept, skipped = decode(
        [both[row] for row in rows],
        image_size=options.image_size,
        skip_bad_images=options.skip_bad_images,
        where=str(path),
        progress=options.progress,
    )
    kept = [rows[index] for index in kept]
    every = np.asarray([*labels, *test_labels], dtype=np.int64)[kept]
    border = int(np.searchsorted(kept, len(sources)))
    skipped += [entry for folder in (*roots, *([] if test is None else [test])) for entry in foreign_images(folder)]
    skipped += _beside(path, roots, test)
    raw = Raw(images[:border], every[:border], tuple(map(shown, classes)), skipped=skipped)
    if test is not None:
        raw.test_images, raw.test_labels = images[border:], every[border:]
    return raw


def _beside(path: Path, roots: list[Path], test: Path | None) -> list[tuple[str, str]]:
    """Folders of images beside those of the splits, which are not read: name and reason."""
    if roots == [path]:
        return []
    used = {root.name for root in roots} | ({test.name} if test is not None else set())
    others = [path / name for name in _classes(path) if name not in used]
    counts = [(folder, len(image_files(folder))) for folder in others]
    return [(shown(f), f"{n} images beside {roots[0].name}/ are in no split") for f, n in counts if n]


def _same_classes(folder: Path, classes: list[str]) -> tuple[list[tuple[str, Path | bytes]], list[int]]:
    extra = sorted(set(_classes(folder)).symmetric_difference(classes))
    if extra:
        raise DataError(
            f"{folder}: expected the classes of the training folder, got a difference in {', '.join(extra)}"
        )
    return _listing(folder, classes)
