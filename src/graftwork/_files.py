"""Files: everything that graftwork keeps on disk is read and written through here.

Reading trusts nothing: names are checked (`check_id`), links below a folder are refused (`inside`), sizes and nesting
are bounded before anything is made of them (`read_bytes`, `parse_json`). Writing is whole or not there: aside, fsync,
rename. What goes wrong is a `RunError` or a `ResourceError` that names the file.
"""

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from graftwork.errors import GraftworkError, InputError, ResourceError, RunError

MAX_BYTES = 2**27
"""Largest file of JSON or TOML that is read."""
_MAX_DEPTH, _MAX_CONTAINERS = 64, 2**22
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_INNERMOST, _SHORT = re.compile(r"([\[{])\n((?:[^\[\]{}\n]+\n)+) *([\]}])"), 100
_ASIDE = re.compile(r"\..+\.(\d+)\.tmp")


def check_id(value: object, what: str, *, error: type[InputError] = RunError) -> str:
    """Return an id, or the name of one file or folder, that is safe wherever it is put: in a path, a page, a terminal.

    Args:
        value: Id as it was read.
        what: What it names; begins the message.
        error: Kind of error to raise.

    Raises:
        InputError: If it is anything but 1 to 128 ASCII letters, digits and ``_ . + -``, the first a letter, digit
            or ``_``.
    """
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise error(f"{what}: expected an id of up to 128 letters, digits and _ . + -, got {ascii(value)[:80]}")
    return value


def inside(folder: Path, name: str) -> Path:
    """Path of a file below a folder; no part of it is a link.

    Args:
        folder: Folder that is trusted to be where it is; it may itself be reached through links.
        name: Path below it, with ``/`` between its parts.

    Raises:
        RunError: If a part is no plain name, or a link.
    """
    path = folder
    for part in name.split("/"):
        path /= check_id(part, f"{folder}: name of a file")
        if path.is_symlink():
            raise RunError(f"{path}: expected a file or folder, got a link, which is not followed; put the file there")
    return path


def read_bytes(path: Path, *, limit: int = MAX_BYTES) -> bytes:
    """Read a regular file of bounded size; a link, a pipe or a device is not opened.

    Raises:
        FileNotFoundError: If it is not there.
        RunError: If it is larger, or no regular file.
        ResourceError: If the machine can't read it.
    """
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            raise RunError(f"{path}: expected a file, got a {'link' if stat.S_ISLNK(mode) else 'folder or device'}")
        with os.fdopen(os.open(path, _READ), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise RunError(f"{path}: expected at most {limit:,} bytes, got {size:,}; is it the right file?")
            return file.read(limit)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ResourceError(f"can't read {path}: {error.strerror or error}; mend that and try again") from error


def read_named(path: Path, *, limit: int = MAX_BYTES) -> bytes:
    """Read a file that the user has named, as `read_bytes`; links to it are followed."""
    return read_bytes(Path(os.path.realpath(path)), limit=limit)


def parse_json(data: bytes | str, what: str, *, error: type[InputError] = RunError) -> Any:
    """Parse JSON whose size and nesting are bounded.

    Args:
        data: JSON text.
        what: What it is; begins the message.
        error: Kind of error to raise.

    Raises:
        InputError: If it is no JSON, or too large or too deep.
    """
    data = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    if len(data) > MAX_BYTES or data.count(b"[") + data.count(b"{") > _MAX_CONTAINERS:
        raise error(f"{what} holds more than {_MAX_CONTAINERS:,} lists and objects; is it the right file?")
    try:
        found = json.loads(data)
    except RecursionError:
        raise error(f"{what} is nested too deeply; expected at most {_MAX_DEPTH} levels") from None
    except ValueError as problem:  # no UTF-8, no JSON, or a number of thousands of digits
        raise error(f"{what} is no JSON: {problem}; it is damaged") from problem
    level = [found]
    for _ in range(_MAX_DEPTH):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return found
    raise error(f"{what} is nested too deeply; expected at most {_MAX_DEPTH} levels")


def _inner(value: Any) -> Iterable[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [one for one in inner if isinstance(one, dict | list)]


@contextmanager
def damaged(what: str, *, error: type[InputError] = RunError) -> Iterator[None]:
    """Let whatever goes wrong while a stranger's data become objects end in one error; those of graftwork pass.

    Args:
        what: What the data are; begins the message.
        error: Kind of error to raise.
    """
    try:
        yield
    except GraftworkError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as problem:
        if "memory" in str(problem):  # torch's allocator: the machine's fault
            raise
        text = ascii(problem)[:200]
        raise error(
            f"{what}: expected what graftwork writes, got {text}; it is damaged or of another version"
        ) from problem


def check_size(path: Path) -> None:
    """Refuse a file that can't be held in memory anyhow, before anything is read of it.

    Raises:
        RunError: If it has more than half of the machine's memory.
    """
    size, memory = path.stat().st_size, _memory()
    if size > memory // 2:
        raise RunError(f"{path}: expected at most half of this machine's {memory:,} bytes of memory, got {size:,}")


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not everywhere is it told
        return 2**40


def sha256_of(path: Path) -> str:
    """Hex digest of a regular file, read in pieces.

    Raises:
        FileNotFoundError: If it is not there.
        RunError: If it is larger than what memory could hold.
        ResourceError: If the machine can't read it.
    """
    try:
        check_size(path)
        with os.fdopen(os.open(path, _READ), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ResourceError(f"can't read {path}: {error.strerror or error}; mend that and try again") from error


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


def gave_out(path: Path, error: OSError) -> ResourceError:
    """Name what could not be written, why, and how to go on."""
    return ResourceError(
        f"can't write {path}: {error.strerror or error}; what was complete is kept: free some space or mend the "
        "rights, then try again or resume the run"
    )


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        ResourceError: If that is not possible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise gave_out(path, error) from error


def write_pieces(
    path: Path, pieces: Iterable[bytes | memoryview], *, announce: Callable[[str], None] | None = None
) -> str:
    """Replace a file as a whole by pieces, of which only one need be in memory.

    Args:
        path: File to replace.
        pieces: Content, one after the other.
        announce: Is told the hash of the content when it is on disk and about to get its name.

    Returns:
        The SHA-256 of what was written, in hex.

    Raises:
        ResourceError: If the machine can't write it; the old file is kept, as it is if making a piece fails.
    """
    aside, digest = _aside(path), hashlib.sha256()
    try:
        aside.unlink(missing_ok=True)  # a process of the same number, killed long ago
        with aside.open("xb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
            file.flush()
            os.fsync(file.fileno())
        if announce is not None:
            announce(digest.hexdigest())
        aside.replace(path)
    except OSError as error:
        _drop(aside)
        raise gave_out(path, error) from error
    except BaseException:
        _drop(aside)
        raise
    sync_folder(path.parent)
    return digest.hexdigest()


def write_bytes(path: Path, data: bytes) -> str:
    """Replace a file as a whole; see `write_pieces`."""
    return write_pieces(path, (data,))


def write_text(path: Path, text: str) -> str:
    """Replace a text file as a whole, in UTF-8; see `write_pieces`."""
    return write_bytes(path, text.encode())


def as_json(data: Any) -> str:
    """JSON as it is kept in files: indented, but lists of plain values and short objects stand on one line."""

    def on_one_line(found: re.Match[str]) -> str:
        line = ", ".join(part.strip() for part in found[2].split(",\n"))
        return f"{found[1]}{line}{found[3]}" if found[1] == "[" or len(line) <= _SHORT else found[0]

    return _INNERMOST.sub(on_one_line, json.dumps(data, indent=1, ensure_ascii=False)) + "\n"


def write_json(path: Path, data: Any) -> str:
    """Replace a JSON file as a whole; see `write_pieces`."""
    return write_text(path, as_json(data))


def write_folder(path: Path, fill: Callable[[Path], None], *, replace: bool = True) -> None:
    """Create a folder as a whole: ``fill`` writes into a folder aside, which is then renamed.

    Args:
        path: Folder to create.
        fill: Function that writes its files into the folder that it is given.
        replace: Whether a folder that is there is replaced; otherwise only one without any file is.

    Raises:
        ResourceError: If the machine can't write it; nothing is left behind.
    """
    aside = _aside(path)
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        fill(aside)
        for file in filter(Path.is_file, aside.rglob("*")):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        sync_folder(aside)
        if path.exists():
            (shutil.rmtree if replace else _remove_empty)(path)
        aside.rename(path)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise gave_out(path, error) from error
    except BaseException:  # `fill` raises ResourceError of its own where a file in the folder does not fit
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_folder(path.parent)


def _remove_empty(folder: Path) -> None:
    """Remove folders that hold no file; an `OSError` where one is found, which stays."""
    for inner in folder.iterdir():
        _remove_empty(inner)
    folder.rmdir()


@contextmanager
def scratch(folder: Path, name: str) -> Iterator[Path]:
    """Give an empty folder below another, under a name that a later process sweeps; it is gone at the end."""
    sweep(folder, of=name)
    aside = _aside(folder / name)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _aside(path: Path) -> Path:
    """Where something is written before it gets its name."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _drop(path: Path) -> None:
    with suppress(OSError):  # the error that led here is the one to tell
        path.unlink(missing_ok=True)


def sweep(folder: Path, *, of: str = "*") -> None:
    """Remove what processes that are gone have left aside in a folder.

    Args:
        folder: Folder to look in, without those below it.
        of: Name, or pattern of names, of what they were writing.
    """
    for path in folder.glob(f".{of}.*.tmp"):
        match = _ASIDE.fullmatch(path.name)
        if match is None or is_alive(int(match[1])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            _drop(path)


def is_alive(pid: int) -> bool:
    """Whether another process of this machine has a number; `False` of this process itself."""
    if pid == os.getpid() or os.name == "nt":  # on Windows `os.kill` would end it
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        pass
    with suppress(OSError):  # one that has ended, and that its parent has not asked for, is a number still
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    return True


def is_own(found: os.stat_result) -> bool:
    """Whether a file or folder is this user's; always, where the system has no users (Windows)."""
    return not hasattr(os, "getuid") or found.st_uid == os.getuid()
