"""One walk over folders of images, for every command that reads them."""

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import features

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    *((".avif",) if features.check("avif") else ()),
)
"""Endings of files that count as images in a folder, in any case."""

_FOREIGN = {".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".raw", ".dng", ".cr2", ".nef", ".arw", ".eps"}
"""Endings of images that can't be read here: named, never left out in silence."""

NO_IMAGES = "no images"
"""Reason of files that nobody would take for images."""
Parts = tuple[str, ...]
"""Names on the way from the root of a source down to a file or folder."""


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a path for each of 100,000 names takes seconds


@dataclass(frozen=True)
class Slice:
    """A part of a file: what was a file of its own in an archive.

    Args:
        path: File that it lies in.
        start: Its first byte.
        size: Its bytes.
    """

    path: Path
    start: int
    size: int

    def read_bytes(self) -> bytes:
        """Read it as a whole."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.size)


@dataclass(frozen=True)
class Entry:
    """One visible file of a source.

    Args:
        parts: Where it is in the source.
        file: Where its bytes are.
    """

    parts: Parts
    file: Path | Slice

    @cached_property
    def suffix(self) -> str:
        """Ending of its name, in small letters."""
        return _suffix(self.parts[-1])

    @property
    def is_image(self) -> bool:
        """Whether it counts as an image, by its name."""
        return self.suffix in IMAGE_SUFFIXES


class Tree:
    """What lies in a folder or an archive.

    Args:
        root: The folder or archive, as messages name it.
        entries: Its visible files.
        folders: Its visible folders.
        skipped: What was not entered or can't be read, each with the reason.
    """

    def __init__(
        self, root: Path, entries: Iterable[Entry], folders: Iterable[Parts], *, skipped: list[tuple[str, str]]
    ) -> None:
        self.root = root
        self._before = os.fspath(root / "_")[:-1]
        self.entries = sorted(entries, key=lambda entry: entry.parts)
        self.skipped = skipped
        self._keys = [entry.parts for entry in self.entries]
        self._folders = sorted(set(folders))

    def name(self, parts: Parts) -> str:
        """A place in the tree as messages name it."""
        return shown(self._before + os.sep.join(parts)) if parts else shown(self.root)  # noqa: PTH118 - see `_suffix`

    def below(self, folder: Parts) -> list[Entry]:
        """Files anywhere below a folder, sorted."""
        if not folder:
            return self.entries
        after = (*folder[:-1], folder[-1] + "\0")  # the first that sorts behind everything in the folder
        return self.entries[bisect_left(self._keys, folder) : bisect_left(self._keys, after)]

    def images(self, folder: Parts = ()) -> list[Entry]:
        """Images anywhere below a folder, sorted."""
        return [entry for entry in self.below(folder) if entry.is_image]

    def loose(self, folder: Parts) -> list[Entry]:
        """Images that lie in a folder itself."""
        return [entry for entry in self.images(folder) if len(entry.parts) == len(folder) + 1]

    def children(self, folder: Parts) -> list[str]:
        """Names of the folders in a folder, sorted."""
        depth = len(folder)
        return [parts[-1] for parts in self._folders if len(parts) == depth + 1 and parts[:depth] == folder]

    def passed_over(self, used: Iterable[Entry]) -> list[tuple[str, str]]:
        """Everything that is not among the files that were used: name and reason.

        Images of a kind that can't be read here stand one by one; the others are counted by folder and kind.
        """
        taken = {entry.parts for entry in used}
        found, counts = list(self.skipped), Counter[tuple[Parts, str, str]]()
        for entry in self.entries:
            if entry.parts in taken:
                continue
            if entry.is_image:
                counts[entry.parts[:-1], "images", "in no class or split"] += 1
            elif entry.suffix in _FOREIGN:
                reason = f"{entry.suffix} files can't be read here; convert them to PNG or JPEG"
                found.append((self.name(entry.parts), reason))
            else:
                counts[entry.parts[:-1], "files", f"{NO_IMAGES} ({entry.suffix or 'no ending'})"] += 1
        return found + [(self.name(folder), f"{n} {what}: {why}") for (folder, what, why), n in sorted(counts.items())]


def shown(path: str | Path) -> str:
    """A path as text that can be printed and stored: bytes that are no UTF-8 stand as their hexadecimal numbers."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def visible(name: str) -> bool:
    """Whether a file or folder counts: hidden ones don't, nor what macOS puts into archives."""
    return not name.startswith(".") and name != "__MACOSX"


def walk(root: Path) -> Tree:
    """List a folder. Linked folders are entered too, but none inside of itself, and each once below one class."""
    entries: list[Entry] = []
    folders: list[Parts] = []
    skipped: list[tuple[str, str]] = []
    entered: set[tuple[Parts, str]] = set()
    waiting: list[tuple[Parts, tuple[str, ...]]] = [((), ())]
    while waiting:
        parts, above = waiting.pop()
        place = root.joinpath(*parts)
        real = os.path.realpath(place)
        if real in above or (parts[:2], real) in entered:
            skipped.append((shown(place), "a link to a folder that is read already"))
            continue
        entered.add((parts[:2], real))
        try:
            with os.scandir(place) as found:  # it knows kinds without a call to the system for each file
                inside = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            skipped.append((shown(place), f"a folder that can't be opened: {error.strerror}"))
            continue
        for entry in inside:
            kind, path = _kind(entry), (*parts, entry.name)
            if kind == "folder":
                folders.append(path)
                waiting.append((path, (*above, real)))
            elif kind == "file":
                entries.append(Entry(path, place / entry.name))
            elif kind is not None:
                skipped.append((shown(place / entry.name), kind))
    return Tree(root, entries, folders, skipped=skipped)


def _kind(entry: os.DirEntry[str]) -> str | None:
    """``"file"``, ``"folder"``, or why neither; ``None``: hidden, and nothing that could be meant as images."""
    hidden = not visible(entry.name)
    try:
        if entry.is_dir():
            return "a hidden folder" if hidden else "folder"
        if hidden:
            return "a hidden image" if _suffix(entry.name) in IMAGE_SUFFIXES else None
        if entry.is_file():
            return "file"
    except OSError as error:  # a link to itself
        return f"can't be opened: {error.strerror}"
    return "a link to nothing" if entry.is_symlink() else "a pipe or device"


def image_files(folder: Path, *, skipped: list[tuple[str, str]] | None = None) -> list[Path]:
    """Image files anywhere below a folder, sorted.

    Args:
        folder: Folder to look in.
        skipped: Takes the name of everything else, with the reason why it is no image; ``None``: it is not wanted.
    """
    tree = walk(folder)
    images = tree.images()
    if skipped is not None:
        skipped += tree.passed_over(images)
    return [entry.file for entry in images if isinstance(entry.file, Path)]
