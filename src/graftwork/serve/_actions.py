"""What the page can do to a run: stop it in order, and resume it."""

import subprocess
import sys
import tempfile
import threading
from typing import IO

from graftwork.errors import InputError, RunError
from graftwork.runs import stop_run
from graftwork.serve._shelf import Snapshot

_LONGEST = 1000
_STOPPED = (0, -15, 130, 143)
"""Exit codes that are no failure: done, or stopped by a signal."""


class Actions:
    """Stops and resumes runs, and remembers what came of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._resumes: dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}
        self._notes: dict[str, str] = {}

    def stop(self, snapshot: Snapshot) -> None:
        """Ask a run to store what it has and to end; what is refused is kept for `note`."""
        with self._lock:
            try:
                stop_run(snapshot.path)
                self._notes[snapshot.id] = "Asked to stop: it stores a checkpoint after this update, and ends."
            except (InputError, OSError) as error:
                self._notes[snapshot.id] = str(error)

    def resume(self, snapshot: Snapshot) -> None:
        """Start a process of its own that goes on with a run, and that outlives this server."""
        with self._lock:
            try:
                self._resume(snapshot)
            except (InputError, OSError) as error:
                self._notes[snapshot.id] = str(error)

    def _resume(self, snapshot: Snapshot) -> None:
        if snapshot.state not in ("dead", "stopped") or self._is_starting(snapshot.id):
            raise RunError(
                f"{snapshot.name}: expected a run that is dead or stopped, got one that is {snapshot.state} or starts"
            )
        said = tempfile.TemporaryFile()  # noqa: SIM115  # the process writes to it as long as it lives
        command = [sys.executable, "-m", "graftwork", "search", "--quiet", "--resume", str(snapshot.path)]
        process = subprocess.Popen(  # noqa: S603  # our own words, and a folder that the user has named
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        )
        self._resumes[snapshot.id] = (process, said)
        self._notes[snapshot.id] = ""

    def _is_starting(self, name: str) -> bool:
        return name in self._resumes and self._resumes[name][0].poll() is None

    def note(self, snapshot: Snapshot) -> str:
        """What came of the last action; empty where there is nothing to tell."""
        with self._lock:
            if self._is_starting(snapshot.id):
                waiting = snapshot.state in ("dead", "stopped")
                return "A process that goes on with the run is starting." if waiting else ""
            if snapshot.id in self._resumes:
                process, said = self._resumes.pop(snapshot.id)
                if process.returncode not in _STOPPED:
                    self._notes[snapshot.id] = f"The resume ended with exit code {process.returncode}: {_tail(said)}"
                said.close()
            return self._notes.get(snapshot.id, "")


def _tail(said: IO[bytes]) -> str:
    """End of what a process said."""
    said.seek(max(0, said.seek(0, 2) - _LONGEST))
    return said.read().decode("utf-8", "replace").strip()
