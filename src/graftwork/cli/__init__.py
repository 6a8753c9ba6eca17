"""The command line: one file a command; `main` is the console script and `app` the application.

Errors of graftwork end as one line and exit code 2, never as a traceback; `run_app` gives the same to other
applications, which tell people things by `say` and machines by `emit`.
"""

from graftwork.cli import (  # noqa: F401  (registers the commands)
    _bench,
    _distil,
    _ensemble,
    _evaluate,
    _export,
    _grow,
    _inspect,
    _predict,
    _report,
    _search,
    _serve,
)
from graftwork.cli._app import app, emit, main, run_app, say

__all__ = ["app", "emit", "main", "run_app", "say"]
