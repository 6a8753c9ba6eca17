"""Writes that are whole or not there: write aside, fsync, rename."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from graftwork.errors import ResourceError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last through a power cut; a no-op where the platform has no such call."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _full(path: Path, error: OSError) -> ResourceError:
    return ResourceError(f"no room to write {path}: {error.strerror}; free some space and resume the run")


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file as a whole.

    Raises:
        ResourceError: If the disk is full; the old file is kept.
    """
    write_pieces(path, (data,))


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Replace a file as a whole by pieces, of which only one need be in memory.

    Raises:
        ResourceError: If the disk is full; the old file is kept, as it is if making a piece fails.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise _full(path, error) from error
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole, in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Replace a JSON file as a whole."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Create a folder as a whole: ``fill`` writes into a folder aside, which is then renamed.

    Raises:
        ResourceError: If the disk is full; nothing is left behind.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        fill(aside)
        for file in filter(Path.is_file, aside.rglob("*")):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        sync_folder(aside)
        if path.exists():  # the same step again, after a resume
            shutil.rmtree(path)
        aside.rename(path)
    except BaseException as error:  # `fill` raises ResourceError of its own where a file in the folder does not fit
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise _full(path, error) from error
        raise
    sync_folder(path.parent)
