"""Every error that graftwork raises on purpose.

::

    GraftworkError
    ├── InputError (also ValueError)     something the user gave is wrong; the CLI exits with 2
    │   ├── GenomeError                  a genome that describes no network
    │   ├── BankError                    a block is missing, or would be added twice
    │   ├── DataError                    a data set that can't be read or used
    │   ├── ConfigError                  an option, a recipe or a TOML file
    │   ├── RunError                     a run folder that is missing, damaged or of another version
    │   └── SurgeryError                 a model that can't be grown as asked; the model is untouched
    │       ├── UnsupportedOperationError   an operation between producer and consumer that is not understood
    │       └── NotPreservedError           the growth was tried, changed the function and was rolled back
    ├── SearchInterruptedError           a search that was asked to stop; the CLI exits with 130
    └── ResourceError (also RuntimeError)   the machine gave out: disk full, lost worker

A message says what was expected, what came, and what to do next: ``what: expected …, got …; what to do``.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "BankError",
    "ConfigError",
    "DataError",
    "GenomeError",
    "GraftworkError",
    "InputError",
    "NotPreservedError",
    "ResourceError",
    "RunError",
    "SearchInterruptedError",
    "SurgeryError",
    "UnsupportedOperationError",
    "did_you_mean",
]


class GraftworkError(Exception):
    """Base of all errors that graftwork raises on purpose."""


class InputError(GraftworkError, ValueError):
    """Something that the user gave is wrong; nothing was changed or written."""


class GenomeError(InputError):
    """A genome that describes no network; the message names layer and block."""


class BankError(InputError):
    """A block is missing from the bank, or would be added twice."""


class DataError(InputError):
    """A data set that can't be read or used; the message names the file."""


class ConfigError(InputError):
    """An option, a recipe or a TOML file that can't be used; the message names the key."""


class RunError(InputError):
    """A run folder that is missing, damaged or written by another version."""


class SurgeryError(InputError):
    """A model that can't be grown as asked; the model is untouched."""


class UnsupportedOperationError(SurgeryError):
    """An operation between producer and consumer is not understood; the message names it and its place."""


class NotPreservedError(SurgeryError):
    """The growth was tried, changed the function by more than the tolerance and was rolled back."""


class SearchInterruptedError(GraftworkError):
    """The search was asked to stop; everything up to the last update is stored."""


class ResourceError(GraftworkError, RuntimeError):
    """The machine gave out (disk full, lost worker); what was complete is kept."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the known one that is nearest, if one is near.

    Args:
        name: The name that was given.
        known: The names that there are.

    Returns:
        ``"; did you mean 'check'?"``, empty where no name is near.
    """
    names = {one.lower(): one for one in known}
    close = get_close_matches(str(name).lower(), names, n=1)
    return f"; did you mean {names[close[0]]!r}?" if close else ""
