"""One walk over folders of images, for every command that reads them."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import features

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    *((".avif",) if features.check("avif") else ()),
)
"""Endings of files that count as images in a folder, in any case."""

_FOREIGN = {".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".raw", ".dng", ".cr2", ".nef", ".arw", ".eps"}
"""Endings of images that can't be read here: named, never left out in silence."""


def shown(path: str | Path) -> str:
    """A path as text that can be printed and stored: bytes that are no UTF-8 stand as their hexadecimal numbers."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def visible(name: str) -> bool:
    """Whether a file or folder counts: hidden ones don't, nor what macOS puts into archives."""
    return not name.startswith(".") and name != "__MACOSX"


def files_below(folder: Path) -> Iterator[Path]:
    """Visible files anywhere below a folder. Linked folders are entered too, each folder once."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if visible(name)]
        yield from (Path(place) / name for name in names if visible(name))


def image_files(folder: Path) -> list[Path]:
    """Image files anywhere below a folder, sorted."""
    return images_among(files_below(folder))


def images_among(files: Iterable[Path]) -> list[Path]:
    """The image files among others, sorted."""
    return sorted(file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())


def foreign_images(folder: Path) -> list[tuple[str, str]]:
    """Name and reason of the images below a folder that no reader takes."""
    unread = (_FOREIGN - set(IMAGE_SUFFIXES)).intersection
    files = sorted(file for file in files_below(folder) if unread({file.suffix.lower()}))
    return [(shown(file), f"{file.suffix} files can't be read here; convert them to PNG or JPEG") for file in files]
