"""How much memory a search may take: as asked for, or a share of what is free, limits of containers included."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from graftwork.errors import ConfigError

_SHARE = 0.6
"""Share of the free memory that a search takes unasked: estimates err, and other work goes on beside it."""

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_size(text: object) -> int:
    """Read ``4GB``, ``512MB``, ``1.5GiB`` or a number of bytes.

    Raises:
        ConfigError: If it is none of these, or not greater than 0.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(k|m|g|t|ki|mi|gi|ti|)b?\s*", str(text).lower())
    size = float(match[1]) * _UNITS[match[2]] if match and len(str(text)) < 30 else 0
    if not 1 <= size < 2**60:
        raise ConfigError(f"max_memory: expected a size such as 4GB, 512MB or 1.5GiB, got {text!r}; give one")
    return int(size)


def memory_limit(asked: str | None, device: torch.device, *, processes: int = 1) -> int | None:
    """Find how much more memory this process may take.

    Args:
        asked: What was asked for, for each process; ``None``: a share of what is free now.
        device: Device that networks are trained on.
        processes: Processes that search together on this machine.

    Returns:
        Bytes; ``None`` where nothing was asked for and the system does not say what is free.
    """
    if asked is not None:
        return parse_size(asked)
    free = free_memory(device)
    return None if free is None else int(_SHARE * free / processes)


def free_memory(device: torch.device, *, root: Path = Path("/")) -> int | None:
    """Find how much memory is free on a device.

    Args:
        device: A CUDA device's own memory counts there, the machine's elsewhere.
        root: Where the files of the system begin.

    Returns:
        Bytes that can be had without swapping, in the machine and in every control group (version 1 or 2) that this
        process is in; ``None`` where the system does not say.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [_of_machine(root), *_of_groups(root)]
    return min((size for size in found if size is not None), default=None)


def _of_machine(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:  # macOS and others; Windows has no such call
        return int(os.sysconf("SC_AVPHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return None


def _of_groups(root: Path) -> Iterator[int | None]:
    """What is left in each control group, from this process's own up; in a container some of them can't be seen."""
    base = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = base / "memory" if controllers else base
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield _left(top.joinpath(*parts[:depth]), *names)


def _left(group: Path, limit_name: str, usage_name: str) -> int | None:
    """Limit minus use; pages of files that were not used lately are given back when memory is short."""
    limit, usage = (next(iter(_lines(group / name)), "") for name in (limit_name, usage_name))
    if not (limit.isdecimal() and usage.isdecimal()):
        return None  # no limit ("max"), or no such group
    stale = [line.split()[1] for line in _lines(group / "memory.stat") if line.startswith("inactive_file ")]
    return max(0, int(limit) - int(usage) + int(next(iter(stale), 0)))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
