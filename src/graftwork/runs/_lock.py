"""One process at a time writes to a run: a lock, and a note of who has it."""

import os
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from graftwork._files import inside, is_alive, parse_json, read_bytes, write_json
from graftwork._locks import LockTimeout, file_lock
from graftwork.errors import ResourceError, RunError

LOCK, OWNER = "lock", "owner.json"
_BEAT_SECONDS, _SILENT_SECONDS = 5.0, 30.0

RunState = Literal["finished", "running", "dead", "stopped"]


class RunLock:
    """The right to write to a run folder. The system gives it back when the process ends, in whatever way.

    While it is held, ``owner.json`` says who has it, and its time of change is a heartbeat.

    Args:
        folder: Run folder.
        since: Time of taking it, ISO 8601.

    Raises:
        RunError: If another process has it; the message says which.
        ResourceError: If it can't be taken here.
    """

    def __init__(self, folder: Path, *, since: str) -> None:
        self._folder = folder
        _check_own(folder)
        self._lock = file_lock(inside(folder, LOCK), timeout=0)
        try:
            self._lock.acquire()
        except LockTimeout:
            raise RunError(f"{folder} is in use by {_owner_text(folder)}; wait for its end, or stop it") from None
        except (OSError, NotImplementedError) as error:
            raise ResourceError(f"can't lock {folder}: {error}; use a file system that has locks") from error
        self._ended = threading.Event()
        try:
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
            write_json(inside(folder, OWNER), owner)
        except BaseException:
            self._lock.release()
            raise
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_SECONDS):
            with suppress(OSError):  # a folder that was moved stops the search itself, not this
                os.utime(self._folder / OWNER)

    def release(self) -> None:
        """Give it back; once is enough."""
        if self._ended.is_set():
            return
        self._ended.set()
        with suppress(OSError):
            (self._folder / OWNER).unlink(missing_ok=True)
        self._lock.release()


def _check_own(folder: Path) -> None:
    """Refuse what is no lock or note of ours: taking a lock empties its file, which may be a link to any other."""
    lock, note = inside(folder, LOCK), inside(folder, OWNER)
    if lock.exists() and (not lock.is_file() or lock.stat().st_size):
        raise RunError(f"{lock}: expected an empty file, got something else; remove it")
    if note.exists() and not note.is_file():
        raise RunError(f"{note}: expected a file, got something else; remove it")


def _owner(folder: Path) -> dict[str, Any]:
    try:
        found = parse_json(read_bytes(inside(folder, OWNER), limit=4096), OWNER)
    except (RunError, OSError, ResourceError):
        return {}
    return found if isinstance(found, dict) else {}


def _owner_text(folder: Path) -> str:
    owner = _owner(folder)
    if not owner:
        return "another process"
    pid, host, since = (ascii(str(owner.get(key)))[1:-1][:64] for key in ("pid", "host", "since"))
    return f"process {pid} on {host} since {since}"


def run_state(folder: Path) -> tuple[RunState, str]:
    """Whether a run is finished, running, dead (its process is gone) or stopped in order; and who has or had it."""
    if (folder / "result.json").is_file():
        return "finished", ""
    owner = _owner(folder)
    if not owner:
        return "stopped", ""
    here, pid = owner.get("host") == socket.gethostname(), owner.get("pid")
    gone = here and not (isinstance(pid, int) and (pid == os.getpid() or is_alive(pid)))
    silent = time.time() - (folder / OWNER).stat().st_mtime
    return "dead" if gone or silent > _SILENT_SECONDS else "running", _owner_text(folder)


def stop_run(folder: Path) -> None:
    """Ask the process of a run to store what it has and to end, as SIGTERM does.

    The note of who has the run may come from anybody: a process is asked only while the run's lock is held, and only
    where it answers the signal itself.

    Raises:
        RunError: If the run is not running on this machine, or its process would just be killed.
    """
    state, owner = run_state(folder)
    if state != "running":
        raise RunError(f"{folder}: expected a run that is running, got one that is {state}; there is nothing to stop")
    found = _owner(folder)
    if found.get("host") != socket.gethostname() or os.name == "nt":
        raise RunError(f"{folder} can't be stopped from here; stop {owner} where it was started")
    pid = found.get("pid")
    if type(pid) is not int or pid < 2 or not (_is_held(folder) and _answers(pid)):
        raise RunError(f"{folder}: expected a process that answers SIGTERM, got {owner}; try again, or stop it there")
    os.kill(pid, signal.SIGTERM)


def _is_held(folder: Path) -> bool:
    _check_own(folder)
    lock = file_lock(inside(folder, LOCK), timeout=0)
    try:
        lock.acquire()
    except LockTimeout:
        return True
    lock.release()
    return False


def _answers(pid: int) -> bool:
    """Whether a process catches SIGTERM, as `graftwork search` does; True where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    caught = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return not caught or bool(int(caught[0], 16) >> (signal.SIGTERM - 1) & 1)
