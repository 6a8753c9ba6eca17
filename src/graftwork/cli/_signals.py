"""SIGINT, SIGTERM and SIGHUP ask a search to store what it has and to end."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from graftwork.cli._app import say
from graftwork.errors import SearchInterruptedError

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


@contextmanager
def stopped_by_signals(ask: Callable[[], None]) -> Iterator[None]:
    """Turn signals into a request to stop; a second Ctrl-C is left to the system, which ends the process at once.

    Args:
        ask: Makes the request; the work inside then raises `SearchInterruptedError`.

    Raises:
        SystemExit: With 128 + the number of the signal, when the work was interrupted.
    """
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        ask()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        elif number != signal.SIGTERM:
            _let_go_of_the_terminal()
        with suppress(OSError):
            say("stopping after this step; Ctrl-C (once more) stops at once")

    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]  # Windows has no SIGHUP
    wanted = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]  # as under nohup
    before = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield
    except SearchInterruptedError as error:
        say(str(error))
        raise SystemExit(128 + (came[0] if came else signal.SIGINT)) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _let_go_of_the_terminal() -> None:
    """After a hang-up nobody reads, and writing is an error that would keep the checkpoint from being stored."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if os.isatty(stream.fileno()):
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
