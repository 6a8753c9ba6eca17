"""Starting ranks on this machine, by torch's own means."""

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from graftwork.errors import ResourceError

_GRACE_SECONDS = 20.0
"""How long the other ranks may take to notice that one is gone and to report it, before they are ended."""


def launch(function: Callable[..., None], size: int, *arguments: Any) -> int:
    """Run ``function(method, *arguments)`` in ``size`` processes that can `Group.join` by that method.

    Ctrl-C is left to the ranks, which stop together and store the run.

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
        before = signal.getsignal(signal.SIGINT)
        context = start_processes(  # type: ignore[no-untyped-call]
            _rank, (size, method, function, arguments), nprocs=size, join=False
        )
        signal.signal(signal.SIGINT, signal.SIG_IGN)
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
            signal.signal(signal.SIGINT, before)
    return 0


def _rank(rank: int, size: int, method: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Run one rank, with the environment that torchrun would give it."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ.update({name: str(value) for name, value in numbers.items()})
    function(method, *arguments)
