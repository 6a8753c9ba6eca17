"""The file layer (`_shim.c`), and commands of graftwork that run on it.

A fork server: this process has everything imported, and each command is a fork of it. So a trial costs little more than
the work of its command.
"""

import ctypes
import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

HOWS = ("count", "before", "torn", "after", "error", "error from then on")
How = Literal["count", "before", "torn", "after", "error", "error from then on"]
_MARK = "GRAFTWORK_FAULT_LAYER"


@dataclass(frozen=True)
class Fault:
    """What happens at one file operation.

    Args:
        number: Number of the operation, from 1; 0: nothing happens, operations are counted.
        how: The process is killed before, in the middle of or after it, or it fails.
        error: Number of the error of one that fails.
    """

    number: int = 0
    how: How = "count"
    error: int = 0


@dataclass(frozen=True)
class Ending:
    """How a command ended: its exit code, or minus the signal, all that it wrote, and its file operations."""

    code: int
    text: str
    operations: tuple[tuple[str, str], ...] = ()

    @property
    def crashed(self) -> bool:
        """Whether it ended by a mistake of graftwork's own."""
        return "Traceback (most recent call last)" in self.text or self.code == 70


def compiler() -> str | None:
    """The C compiler; ``None`` where there is none, or the system has no such layer."""
    return shutil.which("cc") if sys.platform == "linux" else None


def stand_on_layer() -> None:
    """Start this program again with the layer below it, unless it stands on it."""
    if _MARK in os.environ:
        return
    library = Path(tempfile.mkdtemp(prefix="graftwork-layer-")) / "layer.so"
    source = Path(__file__).with_name("_shim.c")
    subprocess.run([str(compiler()), "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    more = {_MARK: str(library), "LD_PRELOAD": str(library), "GIT_DIR": os.devnull, "MPLBACKEND": "Agg"}
    os.execve(sys.executable, sys.orig_argv, {**os.environ, **more})


def layer_folder() -> Path:
    """Folder of the layer's library, which lasts as long as this program."""
    return Path(os.environ[_MARK]).parent


def warm_up() -> None:
    """Import what the commands use, and start no thread."""
    import matplotlib.backends.backend_svg
    import matplotlib.figure
    import sklearn.datasets
    import torch
    import torch._dynamo  # which the optimizer of an ensemble draws in

    import graftwork.cli._progress
    import graftwork.cli._workers
    import graftwork.exporting  # noqa: F401
    from graftwork.cli import main
    from graftwork.reports import _build

    all_figures = _build.run_figures
    _build.run_figures = lambda run: itertools.islice(all_figures(run), 2)  # of a report: the others are no other case
    torch.set_num_threads(1)
    sklearn.datasets.load_digits()
    matplotlib.figure.Figure().text(0, 0, "0")
    with redirect_stdout(io.StringIO()), suppress(SystemExit):
        main(["config"])


class Command:
    """One command of graftwork, in a fork of this process.

    Args:
        arguments: Words of the command line; or a function to call in its place.
        folder: Folder whose file operations are watched.
        fault: What happens at one of them.
    """

    def __init__(self, arguments: Sequence[object] | Callable[[], None], folder: Path, fault: Fault = Fault()) -> None:
        self._said, self._log = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 - closed by `wait`
        self.pid = os.fork()
        if self.pid == 0:
            work = arguments if callable(arguments) else partial(_main, [str(word) for word in arguments])
            _run(work, folder, fault, said=self._said, log=self._log)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float | None = None) -> Ending | None:
        """Wait for the end; ``None`` where it has not come after so many seconds."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, 0 if until is None else os.WNOHANG)
            if pid:
                break
            if until is not None and time.monotonic() > until:
                return None
            time.sleep(0.005)
        text, log = (_content(file).decode(errors="replace") for file in (self._said, self._log))
        operations = (line.partition("\t") for line in log.splitlines())
        return Ending(os.waitstatus_to_exitcode(status), text, tuple((call, path) for call, _, path in operations))


def run(arguments: Sequence[object] | Callable[[], None], folder: Path, fault: Fault = Fault()) -> Ending:
    """Run a command to its end; arguments as of `Command`."""
    ending = Command(arguments, folder, fault).wait()
    assert ending is not None
    return ending


def _content(file: BinaryIO) -> bytes:
    with file:
        file.seek(0)
        return file.read()


def _main(words: list[str]) -> None:
    from graftwork.cli import main

    main(words)


def _run(work: Callable[[], None], folder: Path, fault: Fault, *, said: BinaryIO, log: BinaryIO) -> None:
    """What a fork does; it never returns."""
    code: object = 99
    try:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        layer = ctypes.CDLL(os.environ[_MARK])
        how = HOWS.index(fault.how)
        layer.fault_arm(os.fsencode(folder), ctypes.c_long(fault.number), how, fault.error, log.fileno())
        work()
        code = 0
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)
