"""Transformers, imported when it is needed, and kept from talking."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from graftwork.errors import ConfigError


def library() -> Any:
    """Return the package ``transformers``.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            "growing a checkpoint: expected the package transformers, got none; pip install 'graftwork[transformers]'"
        ) from error
    return transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Let transformers load and save without progress bars, logs and warnings; what is wrong is checked afterwards."""
    logs = library().utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity(logs.CRITICAL)
    logs.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()
