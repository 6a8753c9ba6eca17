"""Images in arrays: of any usual layout and type, and in NumPy's files."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graftwork.datasets._listing import Item, Listing, SplitName, split_named
from graftwork.datasets._tasks import OTHER_TASKS
from graftwork.errors import DataError

_CHANNELS = (1, 2, 3, 4)
_ROOM, _GROWTH = 2**30, 16
"""Bytes that any array may unpack to; those in larger files may grow to so many times their size."""


def pictures(images: Sequence[NDArray[Any]] | NDArray[Any], where: str) -> list[Image.Image]:
    """Turn arrays into images, all on one scale.

    Args:
        images: uint8, integers of 0 … 255 or of 0 … 65535, or floats of 0 … 1; each [H, W], [H, W, C] or [C, H, W] with
            1 (grey), 2, 3 or 4 (with transparency) channels.
        where: The arrays, as messages name them.

    Raises:
        DataError: If one has another shape, or there are other values.
    """
    upright = [_channels_last(image, where) for image in images]
    scale = _scale(upright, where)
    return [Image.fromarray(np.ascontiguousarray(_bytes(image, scale))) for image in upright]


def _channels_last(image: NDArray[Any], where: str) -> NDArray[Any]:
    """An image as [H, W] or [H, W, C]."""
    found = image
    if found.ndim == 3 and found.shape[-1] not in _CHANNELS and found.shape[0] in _CHANNELS:
        found = found.transpose(1, 2, 0)
    if found.ndim == 3 and found.shape[-1] == 1:
        found = found[..., 0]
    if not (found.ndim == 2 or (found.ndim == 3 and found.shape[-1] in _CHANNELS)) or 0 in found.shape:
        raise DataError(
            f"{where}: expected images [H, W], [H, W, C] or [C, H, W] of 1 to 4 channels, got {list(image.shape)}; "
            "reshape them"
        )
    return found


def _scale(images: Sequence[NDArray[Any]], where: str) -> float | None:
    """What values are multiplied by to give 0 … 255; ``None``: they are bytes."""
    kinds = {image.dtype for image in images}
    if kinds <= {np.dtype(np.uint8)}:
        return None
    if any(kind.kind not in "biuf" for kind in kinds):
        raise DataError(f"{where}: expected numbers as pixels, got {', '.join(map(str, kinds))}; convert them")
    low, high = min(image.min() for image in images), max(image.max() for image in images)
    top = 65535 if np.dtype(np.uint16) in kinds or high > 255 else 255
    if all(kind.kind in "bf" for kind in kinds):
        whole = 1 < high <= 255 and all(np.array_equal(image, np.round(image)) for image in images)
        top = 255 if whole else 1
    if not 0 <= low <= high <= top:
        raise DataError(
            f"{where}: expected pixels of 0 … 1 as floats, or of 0 … 255 or 65535, got {low:g} … {high:g}; give images "
            "that are not normalised"
        )
    return 255 / top


def _bytes(image: NDArray[Any], scale: float | None) -> NDArray[np.uint8]:
    return image if scale is None else np.round(image.astype(np.float64) * scale).astype(np.uint8)


def list_arrays(images: NDArray[Any], labels: Any, where: str, *, split: SplitName = "train") -> Listing:
    """List images in an array.

    Args:
        images: Images, in a form that `pictures` takes, [N, …].
        labels: Number or name of the class of each image: a list, or an array [N].
        where: The array, as messages name it.
        split: The split that they are in.

    Raises:
        DataError: If there are not as many labels as images, or they are no numbers or texts.
    """
    found = np.asarray(labels)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.shape != (len(images),) or found.dtype.kind not in "iubUO":
        raise DataError(
            f"{where}: expected a number or a text as label of each of {len(images)} images, got {found.dtype} "
            f"{list(found.shape)}; {OTHER_TASKS}"
        )
    texts = found.dtype.kind in "bUO"
    items = [
        Item(f"{where}: image {row}", picture, str(label) if texts else int(label), split)
        for row, (picture, label) in enumerate(zip(pictures(images, where), found.tolist(), strict=True))
    ]
    return Listing(where, items)


# NumPy's files -------------------------------------------------------------------------------------------------------

_IMAGES, _LABELS = ("images", "x", "data", "image"), ("labels", "y", "targets", "label", "target")


def list_npz(path: Path) -> list[Listing]:
    """List arrays in a file of NumPy: ``images`` and ``labels``, or ``x_train``, ``y_train``, ``x_test`` and so on.

    Raises:
        DataError: If it has other arrays, holds Python objects, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            named = _named([name.removesuffix(".npy") for name in archive.namelist()], path)
            arrays = {name: _array(archive, f"{name}.npy", path) for pair in named.values() for name in pair.values()}
    except DataError:
        raise
    except Exception as error:  # NumPy reads the header of an array as Python, which fails in many ways
        raise DataError(
            f"{path}: expected arrays of NumPy, got a file that can't be read ({error}); it is damaged or of another "
            "kind"
        ) from error
    return [
        list_arrays(arrays[pair["images"]], arrays[pair["labels"]], f"{path}/{pair['images']}", split=split)
        for split, pair in sorted(named.items(), key=lambda entry: entry[0] != "train")
    ]


def _named(names: list[str], path: Path) -> dict[SplitName, dict[str, str]]:
    """Names of the arrays of images and labels of each split."""
    named: dict[SplitName, dict[str, str]] = {}
    for name in names:
        words = name.lower().replace("-", "_").split("_")
        split: SplitName = next((found for word in words if (found := split_named(word)) is not None), "train")
        kinds = [kind for kind, known in (("images", _IMAGES), ("labels", _LABELS)) if set(words) & set(known)]
        if len(kinds) == 1:
            named.setdefault(split, {})[kinds[0]] = name
    if "train" not in named or any(len(pair) < 2 for pair in named.values()):
        raise DataError(
            f"{path}: expected arrays images and labels (or x_train, y_train, …), got {', '.join(sorted(names))[:200]}"
            "; rename them"
        )
    return named


def _array(archive: zipfile.ZipFile, name: str, path: Path) -> NDArray[Any]:
    """Read an array whose header claims no more than the file holds."""
    size = archive.getinfo(name).file_size
    if size > (most := max(_ROOM, _GROWTH * path.stat().st_size)):
        raise DataError(f"{path}: expected at most {most:,} bytes in an array, got {size:,} in {name}; is it damaged?")
    with archive.open(name) as file:
        shape, order, kind = _header(file)
        content = file.read(size)
    count = int(np.prod(shape, dtype=object))
    if kind.hasobject or count * kind.itemsize > len(content):
        what = "Python objects" if kind.hasobject else f"{count * kind.itemsize:,} bytes"
        raise DataError(f"{path}: expected numbers or texts within {len(content):,} bytes, got {what} in {name}")
    return np.frombuffer(content, kind, count).reshape(shape, order="F" if order else "C")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, order, kind = read(file)
    return shape, order, kind
