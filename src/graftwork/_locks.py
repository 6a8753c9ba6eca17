"""Locks between processes: the system's where it has them, elsewhere a file that is there while the lock is held."""

import warnings
from pathlib import Path

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # of a platform without locks: it is dealt with here
    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

LockTimeout = Timeout
"""Raised where another process holds a lock for longer than was waited."""


def file_lock(path: Path, *, timeout: float = -1) -> BaseFileLock:
    """Return a lock that is not taken yet.

    Args:
        path: The lock's file. Where the system has no locks, another file beside it is there while the lock is held.
        timeout: Seconds that taking it waits for another process; below 0: for ever.
    """
    if issubclass(FileLock, SoftFileLock):
        return SoftFileLock(path.with_name(f"{path.name}.held"), timeout=timeout)
    return FileLock(path, timeout=timeout)
