"""The application and what all commands share: exit codes, output, lazy imports."""

import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Annotated, Any, NoReturn

import typer

from graftwork._version import __version__
from graftwork.cli._clock import note_began, process_began
from graftwork.errors import GraftworkError, InputError, SearchInterruptedError

USAGE = 2
"""Exit code of bad input: an option, a file, a data set."""
FAILED = 1
"""Exit code when the machine gave out, for example a full disk; what was complete is kept."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: stored, and resumable. After SIGTERM it is 143, after SIGHUP 129."""
CRASHED = 70
"""Exit code of a mistake of graftwork's own."""
_LONGEST = 1500
"""Characters of an error's message."""

app = typer.Typer(
    name="graftwork",
    help="Grow neural networks instead of retraining them.",
    epilog="Exit codes: 0 done, 1 the machine gave out, 2 bad input, 70 a mistake of ours, 130 interrupted (143 by "
    "SIGTERM, 129 by SIGHUP; resume with --resume).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graftwork {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Grow neural networks instead of retraining them."""


def plain(text: str) -> str:
    """Text that moves no cursor and sets no color: control characters and what is not Unicode stand escaped."""
    whole = text.encode("utf-8", "backslashreplace").decode()
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], whole)


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def share(value: float, interval: Sequence[float]) -> str:
    """A share with its interval."""
    low, high = interval
    return f"{value:.4f} [{low:.3f}, {high:.3f}]"


def say(text: str) -> None:
    """A line for a person, on the error stream, so that the output stream stays clean for machines."""
    typer.echo(plain(text), err=True)


def tell(text: str, *, end: str = "\n") -> None:
    """What was asked for, on the output stream."""
    typer.echo(plain(text) + end, nl=False)


def emit(data: Any) -> None:
    """JSON for a machine, one line, on the output stream."""
    tell(json.dumps(data, ensure_ascii=False))


def guarded(call: Callable[[], Any]) -> int:
    """Run something; whatever goes wrong becomes one line and an exit code, never a traceback."""
    try:
        code = call()
    except KeyboardInterrupt:
        say("interrupted")
        code = INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except Exception as error:
        if hasattr(error, "exit_code"):  # click's own: unknown option, missing argument, abort
            show = getattr(error, "show", None)
            if show is not None:
                show()
            code = error.exit_code
        else:
            code, text = explained(error)
            say(text if code == INTERRUPTED else f"error: {_one_line(text)}")
    return code if isinstance(code, int) else 0


def _one_line(text: str) -> str:
    """A message whose parts may come from a stranger's file, in one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"


def explained(error: Exception) -> tuple[int, str]:
    """Exit code and one line for an error; a mistake of ours is written to a report file, which the line names."""
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    known: tuple[tuple[bool, int, str], ...] = (
        (isinstance(error, InputError), USAGE, str(error)),
        (isinstance(error, SearchInterruptedError), INTERRUPTED, str(error)),
        (isinstance(error, GraftworkError), FAILED, str(error)),
        (is_out_of_memory(error), FAILED, f"memory gave out; {MEMORY_HINT}"),
        (isinstance(error, RecursionError), USAGE, "a file that was given is nested too deeply; is it the right one?"),
        (
            isinstance(error, UnicodeError),
            USAGE,
            f"a name or file is no text in UTF-8 ({error}); rename or save it so",
        ),
        (
            isinstance(error, OSError),
            FAILED,
            f"{where}{getattr(error, 'strerror', 0) or error}; mend that, try again",
        ),
    )
    for fits, code, text in known:
        if fits:
            return code, text
    return CRASHED, f"a mistake of graftwork's own: {type(error).__name__}: {error}; see {_crash_report(error)}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up; torch's allocators raise RuntimeErrors."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


MEMORY_HINT = "take a smaller --batch-size, or smaller networks (--max-params, --max-flops, --max-memory)"


def _crash_report(error: Exception) -> str:
    """Write what a developer needs to a file of its own; returns its path."""
    about = (f"graftwork {__version__}, Python {sys.version}", f"command: {sys.argv}")
    try:
        handle, path = tempfile.mkstemp(prefix="graftwork-crash-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join([*about, *traceback.format_exception(error)]))
    except OSError as problem:
        return f"nothing, since no report could be written: {problem}"
    return f"{path}, and please send it to the developers"


def run_app(application: typer.Typer, name: str, arguments: list[str] | None = None) -> NoReturn:
    """Run an application on the command line, and exit with its code.

    Args:
        application: Commands and options.
        name: Name of the program in its messages.
        arguments: Words after the name; ``None``: those of this process.
    """
    command: Callable[..., Any] = typer.main.get_command(application)
    sys.exit(guarded(lambda: command(arguments, prog_name=name, standalone_mode=False)))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run graftwork's command line, and exit with its code."""
    note_began(process_began() if arguments is None else monotonic())
    run_app(app, "graftwork", arguments)
