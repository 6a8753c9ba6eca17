"""Checks of options, shared by rules, schedules and recipes."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from graftwork.errors import ConfigError


def _hint(name: str, choices: Collection[str]) -> str:
    close = get_close_matches(name, list(choices), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_choice(key: str, value: object, choices: Collection[str]) -> None:
    """Raise `ConfigError` unless ``value`` is one of ``choices``; suggests the nearest."""
    if value not in choices:
        expected = ", ".join(sorted(choices))
        raise ConfigError(f"{key}: expected one of {expected}, got {value!r}{_hint(str(value), choices)}")


def check_known(where: str, names: Iterable[str], choices: Collection[str]) -> None:
    """Raise `ConfigError` for the first name that is none of ``choices``; suggests the nearest."""
    for name in names:
        if name not in choices:
            expected = ", ".join(sorted(choices)) or "no options"
            raise ConfigError(f"{where}: unknown key {name!r}{_hint(str(name), choices)} (expected: {expected})")


def check_range(
    key: str, value: object, *, low: float, high: float = float("inf"), integer: bool = False, open_low: bool = False
) -> None:
    """Raise `ConfigError` unless ``value`` is a number in [low, high], or in (low, high] with ``open_low``."""
    kinds = int if integer else (int, float)
    good = isinstance(value, kinds) and not isinstance(value, bool)
    if not good or not (low <= value <= high) or (open_low and value == low):  # type: ignore[operator]
        what = "an integer" if integer else "a number"
        sign = ">" if open_low else ">="
        upper = "" if high == float("inf") else f" and <= {high:g}"
        raise ConfigError(f"{key}: expected {what} {sign} {low:g}{upper}, got {value!r}")
