"""When the present command began: budgets of time count from there, imports included."""

import os
from contextlib import suppress
from pathlib import Path
from time import monotonic

_began: list[float] = []


def note_began(moment: float) -> None:
    """Note that a command began at this moment, by `time.monotonic`."""
    _began[:] = [moment]


def began_at() -> float:
    """The moment that was noted last; now, where none was."""
    return _began[0] if _began else monotonic()


def process_began() -> float:
    """Moment, by `time.monotonic`, at which this process was started; now, where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        # the name of the program, in brackets, may hold blanks; what follows begins with field 3, the start is field 22
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        up = float(Path("/proc/uptime").read_text().split()[0])
        return monotonic() - max(0.0, up - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
    return monotonic()
