"""The resident set of this process, as Linux counts it; imports nothing that would stand in a baseline."""

import sys
from pathlib import Path


def resident(field: str) -> int:
    """Bytes: ``VmRSS`` now, ``VmHWM`` the largest since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    sys.exit(f"/proc/self/status has no {field}: the benchmark needs Linux")


def reset_peak() -> None:
    """Let ``VmHWM`` start again from the present resident set."""
    Path("/proc/self/clear_refs").write_text("5")
