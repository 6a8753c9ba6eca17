"""Checks of options, shared by rules, schedules and recipes."""

from collections.abc import Collection, Iterable

from graftwork.errors import ConfigError, did_you_mean


def check_choice(key: str, value: object, choices: Collection[str]) -> None:
    """Raise `ConfigError` unless ``value`` is one of ``choices``; suggests the nearest."""
    if value not in choices:
        expected = ", ".join(sorted(choices))
        raise ConfigError(f"{key}: expected one of {expected}, got {value!r}{did_you_mean(value, choices)}")


def check_known(where: str, names: Iterable[str], choices: Collection[str]) -> None:
    """Raise `ConfigError` for the first name that is none of ``choices``; suggests the nearest."""
    for name in names:
        if name not in choices:
            expected = f"one of {', '.join(sorted(choices))}" if choices else "no options"
            raise ConfigError(f"{where}: expected {expected}, got {name!r}{did_you_mean(name, choices)}")


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
