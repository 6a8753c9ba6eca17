"""Keep freed memory: on large batches a third of a step can go into page faults of tensors mapped again each time."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGEST = 2**31 - 1


def keep_memory() -> bool:
    """Tell glibc's malloc not to hand memory back to the kernel and not to map large blocks one by one.

    A setting of the whole process: called by the command line, never on import. Results do not depend on it.

    Returns:
        Whether it was set; ``False`` where the C library has no ``mallopt``.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST), (_M_TOP_PAD, 64 << 20))
    done = [mallopt(name, value) for name, value in settings]
    return all(value == 1 for value in done)
