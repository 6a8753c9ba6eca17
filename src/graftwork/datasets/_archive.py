"""Archives: zip and tar, packed or not, listed like folders.

The files in an archive are copied one behind the other into a single file and read from there, so no name in an archive
is ever used as a path. What an archive may claim is bounded before anything is made of it.
"""

import bz2
import errno
import gzip
import io
import lzma
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from graftwork.datasets._walk import Entry, Parts, Slice, Tree, visible
from graftwork.errors import DataError

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
"""Endings of archives, in any case."""

_ROOM, _GROWTH = 2**29, 16
"""Bytes that any archive may unpack to; larger ones may grow to so many times their size."""
_MOST_FILES, _MOST_DEPTH, _MOST_HEADERS, _PIECE = 2**20, 32, 2**20, 2**20
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.ENOENT)
_MAGIC: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}


def is_archive(path: Path) -> bool:
    """Whether a file is an archive, by its name."""
    return path.name.lower().endswith(ARCHIVES)


def unpack(archive: Path, spool: Path) -> Tree:
    """List an archive, and copy what it holds into one file.

    Args:
        archive: Zip or tar file.
        spool: File to write; the tree's entries are parts of it.

    Raises:
        DataError: If it is damaged, encrypted, has names that lead out of it, or holds more than its size suggests.
    """
    unpacking = _Unpacking(archive)
    try:
        with spool.open("wb") as out:
            members = _zipped if archive.suffix.lower() == ".zip" else _tarred
            for parts, file in members(archive, unpacking):
                unpacking.copy(parts, file, out, spool)
    except DataError:
        raise
    except Exception as error:  # zip, gzip, xz and tar raise errors of many kinds, also of Python's own
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise
        raise DataError(
            f"{archive}: expected an archive, got one that can't be read ({error}); it is damaged or cut off, or has a "
            "password"
        ) from error
    return unpacking.tree()


class _Unpacking:
    """What was found in an archive so far, and how much more may be."""

    def __init__(self, archive: Path) -> None:
        self.archive, self.room = archive, max(_ROOM, _GROWTH * archive.stat().st_size)
        self._entries: list[Entry] = []
        self._folders: set[Parts] = set()
        self._skipped: list[tuple[str, str]] = []
        self._left = self.room

    def place(self, name: str, *, size: int, is_folder: bool, other: str | None) -> Parts | None:
        """Parts of a member's name, where its bytes are wanted; notes folders, hidden files and links.

        Args:
            name: Name in the archive.
            size: Bytes that it claims to have.
            is_folder: Whether it is a folder.
            other: What else it is, such as a link; ``None``: a file or folder.
        """
        parts = tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
        if ".." in parts or name.startswith(("/", "\\")) or len(parts) > _MOST_DEPTH:
            raise DataError(
                f"{self.archive}: expected names of files below it, at most {_MOST_DEPTH} folders deep, got "
                f"{ascii(name)[:80]}; it is not read"
            )
        if len(self._entries) + len(self._folders) + len(self._skipped) >= _MOST_FILES:
            raise DataError(f"{self.archive}: expected at most {_MOST_FILES:,} files in an archive, got more")
        self._left -= size
        if self._left < 0:
            raise self.full()
        if not all(map(visible, parts)):
            return None
        self._folders.update(parts[:depth] for depth in range(1, len(parts) + is_folder))
        if other is not None:
            self._skipped.append((f"{self.archive}/{'/'.join(parts)}", other))
        return None if is_folder or other is not None else parts

    def copy(self, parts: Parts, file: IO[bytes], out: BinaryIO, spool: Path) -> None:
        """Copy a member into the spool."""
        start = out.tell()
        shutil.copyfileobj(file, out, _PIECE)  # no more than the size that the member claims
        self._entries.append(Entry(parts, Slice(spool, start, out.tell() - start)))

    def full(self) -> DataError:
        """The error of an archive that holds too much."""
        return DataError(
            f"{self.archive}: expected at most {self.room:,} bytes in an archive of this size, got more; if that is "
            "right, unpack it and name the folder"
        )

    def tree(self) -> Tree:
        """What was found, from the first folder on that holds more than one other."""
        tree = Tree(self.archive, self._entries, self._folders, skipped=self._skipped)
        while len(only := tree.children(())) == 1 and len(tree.below((only[0],))) == len(tree.entries):
            entries = [Entry(entry.parts[1:], entry.file) for entry in tree.entries]
            folders = {parts[1:] for parts in self._folders if len(parts) > 1}
            tree = Tree(tree.root / only[0], entries, folders, skipped=self._skipped)
            self._folders = folders
        return tree


def _zipped(path: Path, unpacking: _Unpacking) -> Iterator[tuple[Parts, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            mode = member.external_attr >> 16
            other = "a link in an archive" if stat.S_ISLNK(mode) else None
            is_folder = member.is_dir()
            parts = unpacking.place(member.filename, size=member.file_size, is_folder=is_folder, other=other)
            if parts is not None:
                with archive.open(member) as file:
                    yield parts, file


def _tarred(path: Path, unpacking: _Unpacking) -> Iterator[tuple[Parts, IO[bytes]]]:
    with path.open("rb") as file:
        opened = _MAGIC.get(file.read(2), open)
    with opened(path, "rb") as plain:
        bounded = _Bounded(plain, unpacking)
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for member in archive:
                other = None if member.isfile() or member.isdir() else "a link or device in an archive"
                other = "a file with holes in an archive" if member.issparse() else other
                parts = unpacking.place(member.name, size=member.size, is_folder=member.isdir(), other=other)
                has_content = member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
                bounded.allow(member.size if has_content else 0)
                stream = archive.extractfile(member) if parts is not None else None
                if parts is not None and stream is not None:
                    yield parts, stream


class _Bounded(io.RawIOBase):
    """A stream that is an error where headers, which tarfile holds in memory, go on for too long."""

    def __init__(self, file: Any, unpacking: _Unpacking) -> None:
        super().__init__()
        self._file, self._unpacking, self._left = file, unpacking, _MOST_HEADERS

    def allow(self, size: int) -> None:
        """Let a member of so many bytes pass, and the headers behind it."""
        self._left = size + _MOST_HEADERS

    def read(self, size: int = -1, /) -> bytes:
        """Some bytes, at most as many as are asked for."""
        data: bytes = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise self._unpacking.full()
        return data
