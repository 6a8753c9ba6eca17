"""Decoding many images to one shape: on all cores, in bounded memory."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from graftwork.datasets._convert import Picture, fit, is_grey, no_warnings, read_at
from graftwork.datasets._places import cache_folder
from graftwork.datasets._survey import frame_of
from graftwork.errors import DataError

Progress = Callable[[int, int], None]
"""Function of the images that are decoded, and of all: called now and then while they are."""

_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)

_IN_MEMORY = 2**28
"""Bytes of decoded images that are held in memory; more lie in a file until they are in the cache."""
_AT_ONCE = 256
_TRIED = 16
_THREADS = 16


@contextmanager
def telling(progress: Progress) -> Iterator[None]:
    """Tell a function how far decoding is, wherever images are decoded inside."""
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


class _ColourError(Exception):
    """An image has colour, though none that was looked at before has."""


def decode(
    sources: Sequence[tuple[str, Picture]],
    *,
    image_size: int | tuple[int, int] | None,
    skip_bad_images: bool,
    where: str,
) -> tuple[NDArray[np.uint8], list[int], list[tuple[str, str]]]:
    """Decode many images to one shape.

    Args:
        sources: Name and file (or bytes) of each image.
        image_size: Side, or height and width, that the user asked for; ``None``: by the rule of `Survey`.
        skip_bad_images: Whether images that can't be read are left out; otherwise they are an error.
        where: The source, as messages name it.

    Returns:
        The images, uint8 [n, H, W, C]; the index in ``sources`` of each; name and reason of those left out.
    """
    frame = frame_of([source for _, source in sources], image_size, where)
    for channels in (1, 3) if frame.grey else (3,):
        out = _room(len(sources), (frame.height, frame.width, channels))
        kept: list[int] = []
        skipped: list[tuple[str, str]] = []
        try:
            for index, found in enumerate(_decoded(sources, out.shape[1:])):
                if isinstance(found, DataError):
                    if not skip_bad_images:
                        raise found
                    skipped.append((sources[index][0], str(found)))
                else:
                    out[len(kept)] = found
                    kept.append(index)
            break
        except _ColourError:
            continue
    if not kept:
        raise DataError(f"{where}: expected images, got {len(sources)} of which none can be read")
    return out[: len(kept)], kept, skipped


def _decoded(
    sources: Sequence[tuple[str, Picture]], shape: tuple[int, ...], *, told: bool = True
) -> Iterator[NDArray[np.uint8] | DataError]:
    """Each image, or what is wrong with it, in order; Pillow decodes without Python's lock, so threads are enough."""
    height, width, channels = shape

    def one(entry: tuple[str, Picture]) -> NDArray[np.uint8] | DataError:
        try:
            image = read_at(entry[1], entry[0], (height, width))
        except DataError as error:
            return error
        if channels == 1 and not is_grey(image):
            raise _ColourError
        return fit(image, (height, width, channels))

    with no_warnings(), ThreadPoolExecutor(min(_THREADS, _cores())) as pool:
        for start in range(0, len(sources), _AT_ONCE):
            yield from pool.map(one, sources[start : start + _AT_ONCE])
            if told and (progress := _progress.get()) is not None:
                progress(min(start + _AT_ONCE, len(sources)), len(sources))


def decoding_seconds(sources: Sequence[Picture], size: tuple[int, int]) -> float:
    """About how long decoding an image to this height and width takes on all cores, by a few of them."""
    few = [("", source) for source in sources[:: max(1, len(sources) // _TRIED)]][: 2 * _TRIED]
    began = perf_counter()
    for _ in _decoded(few, (*size, 3), told=False):
        pass
    return (perf_counter() - began) / max(1, len(few))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _room(count: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Room for so many images: in memory, or in a file without a name, which goes with the array.

    Raises:
        OSError: If the disk is full: here, as writing to mapped memory could not say so.
    """
    size = count * prod(shape)
    if size <= _IN_MEMORY:
        return np.empty((count, *shape), dtype=np.uint8)
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=cache_folder()) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.writelines(bytes(min(2**20, size - start)) for start in range(0, size, 2**20))
            file.flush()
        return np.memmap(file, dtype=np.uint8, mode="r+", shape=(count, *shape))
