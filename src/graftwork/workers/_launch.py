"""Starting ranks on this machine, by torch's own means."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from graftwork.errors import ResourceError

_GRACE_SECONDS = 20.0
"""How long the other ranks may take to notice that one is gone and to report it, before they are ended."""


def launch(function: Callable[..., None], size: int, *arguments: Any) -> int:
    """Run ``function(method, *arguments)`` in ``size`` processes that can `Group.join` by that method.

    Ctrl-C is left to the ranks, which stop together and store the run; other requests to end are passed on to them.
    Ranks end when this process does.

    Args:
        function: Function of a module, so that another process can import it.
        size: Number of ranks.
        arguments: Further arguments of the function; they are pickled.

    Returns:
        The exit code: 0, or that of a rank that has reported why it ended.

    Raises:
        ResourceError: If a rank was killed.
    """
    with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
        method = (Path(folder) / "store").as_uri()
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in numbers}
        context = start_processes(  # type: ignore[no-untyped-call]
            _rank, (size, method, function, arguments), nprocs=size, join=False
        )

        def pass_on(number: int, frame: FrameType | None) -> None:
            for process in context.processes:
                with suppress(OSError, TypeError):  # it has ended, or has not begun
                    os.kill(process.pid, number)

        for number in numbers:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else pass_on)
        try:
            while not context.join(grace_period=_GRACE_SECONDS):
                pass
        except ProcessExitedException as error:
            codes = [process.exitcode or 0 for process in context.processes]
            if error.exit_code is None or error.exit_code < 0:
                raise ResourceError(
                    f"worker {error.error_index} of {size} was lost ({error.signal_name or 'killed'})"
                ) from error
            return next(code for code in [*codes, error.exit_code] if code > 0)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return 0


def _rank(rank: int, size: int, method: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Run one rank, with the environment that torchrun would give it."""
    _end_with_parent()
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ.update({name: str(value) for name, value in numbers.items()})
    function(method, *arguments)


def _end_with_parent() -> None:
    """Let this process end, without a last write, when the one that started it has gone."""
    if not hasattr(os, "getppid"):
        return
    parent = os.getppid()
    with suppress(ImportError, AttributeError, OSError, RuntimeError):  # at once, where the system can
        from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]

        _prctl_pr_set_pdeathsig(signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.25)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
