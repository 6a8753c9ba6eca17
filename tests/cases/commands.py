"""Commands of graftwork, and a tiny search that takes a second.

Nothing here raises `AssertionError`: a case that is expected to fail by one would hide it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from graftwork.cli import main

RESUME = ("search", "--quiet", "--no-report", "--resume")
"""Goes on with the run whose folder follows."""
PATIENCE = 600
"""Seconds after which a process counts as hung, also on a busy machine."""
_RENAMED = ("ImportError", "ModuleNotFoundError", "AttributeError", "NameError")


class BrokenCaseError(Exception):
    """A case can't be told, because something that it builds on does not work."""


def require(condition: object, what: str) -> None:
    """Stop a case whose preparation went wrong."""
    if not condition:
        raise BrokenCaseError(what)


@dataclass(frozen=True)
class Ending:
    """How a command ended: its exit code, and all that it wrote."""

    code: int
    text: str

    @property
    def crashed(self) -> bool:
        return "Traceback (most recent call last)" in self.text

    def checked(self) -> "Ending":
        """Itself, unless what the case asked for has another name by now."""
        require("Usage: graftwork" not in self.text, self.text)
        last = self.text.strip().rsplit("\n", 1)[-1]
        require(not (self.crashed and last.startswith(_RENAMED)), self.text)
        return self


def graftwork(*arguments: object) -> Ending:
    """Run a command in this process; what would be a traceback is raised."""
    said = StringIO()
    code: object = 0
    with redirect_stdout(said), redirect_stderr(said):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
    return Ending(code if isinstance(code, int) else 0, said.getvalue()).checked()


@contextmanager
def started(command: Sequence[object]) -> Iterator["subprocess.Popen[str]"]:
    """A process in the background; at the end of the block it is killed if it still runs."""
    words, environment = [str(word) for word in command], {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ending_of(process: "subprocess.Popen[str]") -> Ending:
    """Wait for a process."""
    text, _ = process.communicate(timeout=PATIENCE)
    return Ending(process.returncode, text).checked()


def own_process(*arguments: object) -> list[object]:
    """The command line of a process of its own."""
    return [sys.executable, "-m", "graftwork", *arguments]


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that another process does."""
    until = time.monotonic() + PATIENCE
    while not condition():
        require(time.monotonic() < until, f"waited in vain for {what}")
        time.sleep(0.05)


def tiny_search(
    folder: Path,
    *more: object,
    data: object = "digits",
    shape: tuple[int, int, int] = (1, 8, 8),
    classes: int = 10,
    width: int = 8,
) -> list[object]:
    """Arguments of a search that trains and scores three small networks in about a second.

    Args:
        folder: Where the genome is written; the run goes to ``folder / "run"``.
        more: Further options; they win over those given here.
        data: A name, or a path.
        shape: Channels, height and width of its images.
        classes: Number of its classes.
        width: Channels of the networks' one layer.
    """
    block = {"id": "s0", "kernel_size": 3, "hidden_channels": width, "start": 0, "stop": width}
    genome = {
        "format": 1,
        "input_shape": shape,
        "num_classes": classes,
        "activation": "relu",
        "norm": "batch",
        "stem": {"kind": "none", "id": "stem", "out_channels": 0, "kernel_size": 3},
        "body": [{"type": "layer", "out_channels": width, "blocks": [block]}],
        "head": {"kind": "linear", "id": "head", "hidden_features": 0, "pooling": "max", "scale": 0.125},
    }
    path = folder / "genome.json"
    path.write_text(json.dumps(genome))
    options: dict[str, object] = {
        "--data": data,
        "--genome": path,
        "--num-generations": 1,
        "--initial-steps": 8,
        "--steps-per-generation": 8,
        "--population-size": 3,
        "--num-survivors": 2,
        "--batch-size": 16,
        "--seed": 3,
        "--threads": 1,
        "--precision": "float32",
        "--passes": "torch",
        "--out": folder / "run",
    }
    return ["search", *(word for option in options.items() for word in option), "--quiet", "--no-report", *more]
