"""Run folders that are watched: each a snapshot, made again only where its files have changed."""

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Literal

from graftwork._files import damaged, inside, read_bytes
from graftwork.errors import GraftworkError, InputError
from graftwork.reports import RunData, sketch_run
from graftwork.runs import Row, RunState, parse_records, run_state

PERIOD = 0.25
"""Seconds between two looks at the files."""
_RESCAN, _MOST_RUNS = 2.0, 500
_MARKS = ("config.toml", "records.jsonl", "result.json", "provenance.json")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a run folder holds at a moment.

    Attributes:
        id: Name of the run in addresses, made from its path: it never becomes a path again.
        path: The folder.
        revision: Number that grows whenever anything else here changes.
        state: As `graftwork.runs.run_state` tells; ``"broken"`` where the folder can't be read.
        owner: The process that has it, or had it; empty for none.
        run: Its data, without members and predictions; None where it is broken.
        error: What is wrong with it; empty where nothing is.
    """

    id: str
    path: Path
    revision: int
    state: RunState | Literal["broken"]
    owner: str = ""
    run: RunData | None = None
    error: str = ""

    @property
    def name(self) -> str:
        """Name of the folder as text: what is no UTF-8 in it stands as a question mark."""
        return os.fsencode(self.path.name).decode("utf-8", "replace")


@dataclass
class _Records:
    """Rows of a ``records.jsonl`` that grows: a line that was parsed is not parsed again.

    A run replaces the file at every append, and a resume cuts it back. So what was read before has to be the beginning
    of what is there, by its hash; else all is parsed from the start.
    """

    path: Path
    rows: list[Row] = field(default_factory=list)
    _size: int = 0
    _lines: int = 0
    _digest: bytes = hashlib.sha256().digest()

    def refresh(self) -> None:
        try:
            data = read_bytes(inside(self.path, "records.jsonl"))
        except FileNotFoundError:
            data = b""
        data = data[: data.rfind(b"\n") + 1]
        if hashlib.sha256(data[: self._size]).digest() != self._digest:
            self.rows, self._size, self._lines = [], 0, 0
        new = data[self._size :]
        rows = parse_records(new, self.path / "records.jsonl", first=self._lines + 1)
        self.rows = [*self.rows, *rows]
        self._size, self._lines = len(data), self._lines + new.count(b"\n")
        self._digest = hashlib.sha256(data).digest()


class _Follower:
    """One run folder and its newest snapshot."""

    def __init__(self, path: Path) -> None:
        name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:12]
        self._path, self._records = path, _Records(path)
        self._seen: object = None
        self.snapshot = Snapshot(name, path, 0, "broken")

    def refresh(self) -> None:
        try:
            state, owner = run_state(self._path)
        except OSError:  # its process ends just now; the next look tells
            return
        seen = (state, owner, *map(self._mark, _MARKS))
        if seen != self._seen:
            self._seen, before = seen, self.snapshot
            self.snapshot = self._read(before.id, before.revision + 1, state, owner)

    def _mark(self, name: str) -> object:
        """What changes when a file is replaced; None where there is none."""
        try:
            found = (self._path / name).lstat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self, name: str, revision: int, state: RunState, owner: str) -> Snapshot:
        try:
            with damaged(str(self._path)):
                self._records.refresh()
                run = sketch_run(self._path, self._records.rows)
        except (GraftworkError, OSError) as error:
            if not isinstance(error, InputError):  # the machine gave out: the next look tries again
                self._seen = None
            return Snapshot(name, self._path, revision, "broken", owner, error=str(error))
        return Snapshot(name, self._path, revision, state, owner, run)


class Shelf:
    """The run folders that a page shows. Links in the folders that were given are passed over.

    Args:
        places: Run folders, and folders that hold run folders; those that appear later are found, too.

    Raises:
        InputError: If one is no folder.
    """

    def __init__(self, places: Sequence[Path]) -> None:
        for place in places:
            if not place.is_dir():
                raise InputError(f"{place}: expected a run folder, or a folder of them, got none; check the path")
        self._places = [Path(os.path.realpath(place)) for place in places]
        self._followers: dict[Path, _Follower] = {}
        self._lock = threading.Lock()
        self._scanned = self._refreshed = -_RESCAN

    def snapshots(self) -> list[Snapshot]:
        """Look at the files, unless that was done just now, and return the newest snapshot of each run."""
        with self._lock:
            if monotonic() - self._scanned >= _RESCAN:
                paths = list(dict.fromkeys(path for place in self._places for path in _runs(place)))[:_MOST_RUNS]
                self._followers = {path: self._followers.get(path) or _Follower(path) for path in paths}
                self._scanned = monotonic()
            if monotonic() - self._refreshed >= PERIOD / 2:
                for follower in self._followers.values():
                    follower.refresh()
                self._refreshed = monotonic()
            return [follower.snapshot for follower in self._followers.values()]

    def find(self, name: str) -> Snapshot | None:
        """The newest snapshot of a run, by its id; None where there is no such run."""
        return next((one for one in self.snapshots() if one.id == name), None)


def _runs(place: Path) -> Iterator[Path]:
    """A run folder itself, or those that a folder holds, by name."""
    if _is_run(place):
        yield place
        return
    try:
        inner = sorted(place.iterdir())
    except OSError:  # it was removed meanwhile
        return
    yield from (path for path in inner if not path.is_symlink() and path.is_dir() and _is_run(path))


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in _MARKS)
