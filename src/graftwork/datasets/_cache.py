"""A cache of decoded data sets: memory-mapped arrays in a folder named by what they were read from.

The folder's name is a hash of the source's files (path, size, time of change) and of the options of reading, so a
changed file is decoded again. A manifest holds the fingerprint of the content. The folder is filled under another name
and then renamed, under a lock: no process ever sees half a data set, and a full disk leaves nothing behind.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from graftwork._files import is_own, parse_json, read_bytes
from graftwork._locks import file_lock
from graftwork.datasets._copies import find_alike, number_copies
from graftwork.datasets._dataset import ImageDataset, check_labels
from graftwork.datasets._listing import Raw
from graftwork.datasets._places import cache_folder
from graftwork.errors import DataError, ResourceError

VERSION = 2

_PARTS = ("images", "labels", "test_images", "test_labels", "validation", "groups")
_DERIVED = ("copies", "alike")
_VERIFIED_BYTES = 2**28
"""Arrays of at most this size are compared with their fingerprint at every opening."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_log = logging.getLogger(__name__)


def state_of(files: list[Path]) -> str:
    """Hash of files (path, size, time of change): equal while nothing has changed."""
    digest = hashlib.sha256()
    real: dict[str, bytes] = {}  # many files lie in few folders
    for file in files:
        state, (folder, name) = file.stat(), os.path.split(file)
        if folder not in real:
            real[folder] = os.fsencode(os.path.realpath(folder))
        digest.update(real[folder] + os.fsencode(f"/{name} {state.st_size} {state.st_mtime_ns}\n"))
    return digest.hexdigest()


def source_key(state: str, options: Any) -> str:
    """Name in the cache of what is read from files in a state (see `state_of`) by options."""
    return hashlib.sha256(f"{VERSION} {state} {options!r}".encode()).hexdigest()[:24]


def _fingerprint(arrays: dict[str, Any], class_names: tuple[str, ...]) -> str:
    digest = hashlib.sha256(json.dumps(class_names).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        for start in range(0, len(array), 4096):
            digest.update(np.ascontiguousarray(array[start : start + 4096]).tobytes())
    return digest.hexdigest()


def _arrays(raw: Raw, source: str) -> dict[str, Any]:
    for name in raw.class_names:
        if not name.isascii() and name.encode(errors="ignore").decode() != name:  # a folder's, as the system has it
            raise DataError(f"{source}: expected UTF-8 as name of a class, got {ascii(name)[:80]}; rename it")
    arrays = {"images": raw.images, "labels": check_labels(np.asarray(raw.labels), raw.class_names, source)}
    if raw.test_images is not None and raw.test_labels is not None:
        where = f"{source} (test split)"
        arrays["test_images"] = raw.test_images
        arrays["test_labels"] = check_labels(np.asarray(raw.test_labels), raw.class_names, where, every_class=False)
    for name in ("validation", "groups"):
        if (values := getattr(raw, name)) is not None:
            arrays[name] = np.asarray(values, dtype=np.int64)
    return arrays


def _derived(arrays: dict[str, Any]) -> dict[str, Any]:
    """What is found out about the images: copies, and others that look much alike."""
    parts = [arrays[name] for name in ("images", "test_images") if name in arrays]
    if parts[0].dtype != np.uint8:  # features of images, which were looked at before
        count = sum(map(len, parts))
        return {"copies": np.arange(count), "alike": np.full(count, -1)}
    copies = number_copies(parts)
    return {"copies": copies, "alike": find_alike(parts, copies)}


def in_memory(raw: Raw, *, name: str) -> ImageDataset:
    """Make a data set of what a Python program holds, without a cache.

    Args:
        raw: The data.
        name: Name of the data set, also in messages.

    Raises:
        DataError: If the labels can't be used.
    """
    arrays = _arrays(raw, name)
    fingerprint = _fingerprint(arrays, raw.class_names)
    more = {"names": tuple(raw.names), "skipped": tuple(raw.skipped), **_derived(arrays)}
    return ImageDataset(name, class_names=raw.class_names, fingerprint=fingerprint, **arrays, **more)


def cached(key: str, read: Callable[[], Raw], *, name: str, source: str, folder: Path | None = None) -> ImageDataset:
    """Open a data set from the cache; read it first if it is not there.

    Args:
        key: Name in the cache, from `source_key`.
        read: Function that decodes the source.
        name: Name of the data set.
        source: The source, as messages name it.
        folder: Folder of the cache; ``None``: `cache_folder`.

    Raises:
        ResourceError: If the disk is full or the cache can't be written; nothing is left behind.
    """
    root = folder or cache_folder()
    target = root / key
    try:
        root.mkdir(parents=True, exist_ok=True)
        with file_lock(root / f"{key}.lock"):
            found = _open(target, name)
            if found is None:
                _fill(target, read(), source)
                found = _open(target, name)
    except OSError as error:
        what = "a full disk" if error.errno in _NO_ROOM else str(error)
        raise ResourceError(
            f"data: expected to decode {source} into {root}, got {what}; free some space, or name another folder in "
            "GRAFTWORK_CACHE"
        ) from error
    if found is None:
        raise ResourceError(f"{target}: expected the data set just written, got none; is the disk failing?")
    return found


def _fill(target: Path, raw: Raw, source: str) -> None:
    arrays = _arrays(raw, source)
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    for left in target.parent.glob(f".{target.name}.*.tmp"):  # left by a process that was killed, as we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    try:
        aside.mkdir()
        derived = _derived(arrays)
        for name, array in {**arrays, **derived}.items():
            with (aside / f"{name}.npy").open("wb") as file:
                _write(file, array)
                file.flush()
                os.fsync(file.fileno())
        manifest = {
            "class_names": list(raw.class_names),
            "fingerprint": _fingerprint(arrays, raw.class_names),
            "derived": _fingerprint(derived, ()),
            "names": raw.names,
            "skipped": raw.skipped,
        }
        with (aside / "manifest.json").open("w", encoding="utf-8") as text:
            json.dump(manifest, text)
            text.flush()
            os.fsync(text.fileno())
        shutil.rmtree(target, ignore_errors=True)  # what is there is damaged
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _write(file: BinaryIO, array: Any) -> None:
    """Write an array like ``np.save``, but by ``write``: numpy's own way to a file hides that the disk is full."""
    np.lib.format.write_array_header_1_0(file, {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape})
    for start in range(0, len(array), 4096):
        file.write(np.ascontiguousarray(array[start : start + 4096]).tobytes())


def _open(target: Path, name: str) -> ImageDataset | None:
    """Map the data set that is there; ``None`` where it is missing or damaged."""
    try:
        return _map(target, name)
    except FileNotFoundError:
        return None
    except OSError:
        raise
    except Exception as error:  # numpy reads the header of an array as Python, which fails in many ways
        _log.warning("%s is damaged (%s) and is decoded again", target, error)
        return None


def _map(target: Path, name: str) -> ImageDataset:
    if not is_own(target.lstat()):
        raise ValueError("another user made it")
    manifest = parse_json(read_bytes(target / "manifest.json"), "manifest.json")

    def load(array: str, mode: Any) -> Any:
        path = target / f"{array}.npy"
        return np.load(path, mmap_mode=mode, allow_pickle=False) if path.is_file() else None

    parts = {part: load(part, "r" if "images" in part else None) for part in (*_PARTS, *_DERIVED)}
    there, classes = {part: parts[part] for part in _PARTS if parts[part] is not None}, tuple(manifest["class_names"])
    derived = {part: parts[part] for part in _DERIVED}
    small = sum(array.nbytes for array in there.values()) <= _VERIFIED_BYTES
    if small and _fingerprint(there, classes) != manifest["fingerprint"]:
        raise ValueError("its fingerprint does not fit")
    if _fingerprint(derived, ()) != manifest["derived"]:
        raise ValueError("what was found out about its images does not fit")
    more: dict[str, Any] = {
        "names": tuple(manifest["names"]),
        "skipped": tuple((file, reason) for file, reason in manifest["skipped"]),
    }
    return ImageDataset(name, class_names=classes, fingerprint=manifest["fingerprint"], **more, **parts)
