"""The command line: one file a command; `main` is the console script and `app` the application.

Errors of graftwork end as one line and exit code 2, never as a traceback.
"""

from graftwork.cli import (  # noqa: F401  (registers the commands)
    _bench,
    _distil,
    _ensemble,
    _export,
    _inspect,
    _report,
    _reproduce,
    _search,
)
from graftwork.cli._app import app, main

__all__ = ["app", "main"]
