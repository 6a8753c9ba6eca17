"""Schedules: progress of the whole search, 0 to 1, to a factor on the learning rate."""

from collections.abc import Callable, Mapping
from inspect import signature
from math import cos, pi
from typing import Any

from graftwork.training._options import check_choice, check_known, check_range

Schedule = Callable[[float], float]
"""Progress (FLOPs spent over FLOPs planned; cut off to [0, 1]) → factor on the learning rate."""


def _clip(progress: float) -> float:
    return min(max(progress, 0.0), 1.0)


def _decay(shape: Callable[[float], float], final: float, warmup: float) -> Schedule:
    """Rise to 1 over the first ``warmup``, then follow ``shape``, which goes from 1 to 0, down to ``final``."""
    check_range("schedule: final", final, low=0, high=1)
    check_range("schedule: warmup", warmup, low=0, high=1)

    def schedule(progress: float) -> float:
        progress = _clip(progress)
        if progress < warmup:
            return progress / warmup
        rest = (progress - warmup) / (1 - warmup) if warmup < 1 else 0.0
        return final + (1 - final) * shape(rest)

    return schedule


def constant() -> Schedule:
    """Make a schedule that is always 1 (the paper)."""
    return lambda progress: 1.0


def linear(*, final: float = 0.0, warmup: float = 0.0) -> Schedule:
    """Fall linearly from 1 to ``final``, after a linear rise over the first ``warmup`` of progress."""
    return _decay(lambda x: 1 - x, final, warmup)


def cosine(*, final: float = 0.0, warmup: float = 0.0) -> Schedule:
    """Fall along half a cosine from 1 to ``final``, after a linear rise over the first ``warmup`` of progress."""
    return _decay(lambda x: (1 + cos(pi * x)) / 2, final, warmup)


def warmup_stable_decay(*, warmup: float = 0.05, decay: float = 0.3, final: float = 0.0) -> Schedule:
    """Rise over the first ``warmup`` of progress, stay at 1, fall linearly to ``final`` over the last ``decay``.

    While it stays at 1, members of different ages train at the same rate, and the search can be prolonged.
    """
    check_range("schedule: warmup", warmup, low=0, high=1)
    check_range("schedule: decay", decay, low=0, high=1 - warmup)
    check_range("schedule: final", final, low=0, high=1)

    def schedule(progress: float) -> float:
        progress = _clip(progress)
        if progress < warmup:
            return progress / warmup
        if progress > 1 - decay:
            return final + (1 - final) * (1 - progress) / decay
        return 1.0

    return schedule


SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "warmup-stable-decay": warmup_stable_decay,
}
"""Schedules by name; a new one is used and tested once it is registered here."""


def make_schedule(name: str, **options: Any) -> Schedule:
    """Make a schedule by name.

    Args:
        name: A key of `SCHEDULES`.
        **options: Keyword arguments of that schedule.

    Raises:
        ConfigError: If there is no such schedule or option, or a value is out of range; suggests the nearest.
    """
    check_choice("schedule", name, SCHEDULES)
    check_known(f"schedule {name}", options, signature(SCHEDULES[name]).parameters)
    return SCHEDULES[name](**options)
