"""Where decoded data sets lie."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$GRAFTWORK_CACHE``, or ``graftwork`` in the user's cache folder (``$XDG_CACHE_HOME``, or ``~/.cache``)."""
    named = os.environ.get("GRAFTWORK_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graftwork"
