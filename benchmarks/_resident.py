"""Memory and time of a process, as Linux counts them; imports nothing that would stand in a baseline."""

import os
from pathlib import Path


def resident(field: str, process: int | str = "self") -> int:
    """Bytes: ``VmRSS`` now, ``VmHWM`` the largest since the last reset, ``RssAnon`` now without mapped files.

    Args:
        field: Line of the process's status.
        process: Number of the process.

    Returns:
        0 where the process has ended.
    """
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def reset_peak() -> None:
    """Let ``VmHWM`` start again from the present resident set."""
    Path("/proc/self/clear_refs").write_text("5")


def processor_seconds(process: int) -> float:
    """Seconds of processor that a process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
