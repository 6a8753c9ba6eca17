"""The application and what all commands share: exit codes, output, lazy imports."""

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from graftwork._version import __version__
from graftwork.errors import GraftworkError, InputError, SearchInterruptedError

USAGE = 2
"""Exit code of bad input: an option, a file, a data set."""
FAILED = 1
"""Exit code when the machine gave out, for example a full disk; what was complete is kept."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: stored, and resumable."""

app = typer.Typer(
    name="graftwork",
    help="Grow neural networks instead of retraining them.",
    epilog="Exit codes: 0 done, 1 the machine gave out, 2 bad input, 130 interrupted (resume with --resume).",
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


def say(text: str) -> None:
    """A line for a person, on the error stream, so that the output stream stays clean for machines."""
    typer.echo(text, err=True)


def emit(data: Any) -> None:
    """JSON for a machine, one line, on the output stream."""
    typer.echo(json.dumps(data, ensure_ascii=False))


def guarded(call: Callable[[], Any]) -> int:
    """Run something; errors of graftwork become one line and an exit code, never a traceback."""
    try:
        code = call()
    except InputError as error:
        say(f"error: {error}")
        code = USAGE
    except GraftworkError as error:
        interrupted = isinstance(error, SearchInterruptedError)
        say(f"{error}" if interrupted else f"error: {error}")
        code = INTERRUPTED if interrupted else FAILED
    except KeyboardInterrupt:
        say("interrupted")
        code = INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        show = getattr(error, "show", None)  # click's own errors: unknown option, missing argument, abort
        if show is not None:
            show()
        code = error.exit_code
    return code if isinstance(code, int) else 0


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
    run_app(app, "graftwork", arguments)
