"""Strategies by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from graftwork.errors import ConfigError, did_you_mean
from graftwork.evolution.mutation import Mutator
from graftwork.evolution.selection import Selector
from graftwork.evolution.strategies._neuroevolution import Neuroevolution
from graftwork.evolution.strategies._strategy import Strategy

STRATEGIES: Mapping[str, Callable[..., Strategy]] = MappingProxyType({"neuroevolution": Neuroevolution})
"""Factories by the name that ``--strategy`` takes; each takes ``selector`` and ``mutate``, and options of its own."""


def make_strategy(name: str, *, selector: Selector, mutate: Mutator, **options: Any) -> Strategy:
    """Make the strategy that is registered under a name.

    Args:
        name: A key of `STRATEGIES`.
        selector: Choice of survivors.
        mutate: Mutation that draws and applies growth.
        **options: Further arguments of its factory.

    Raises:
        ConfigError: If the name is unknown, or the strategy doesn't take an option.
    """
    if name not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise ConfigError(f"strategy: expected one of {known}, got {name!r}{did_you_mean(name, STRATEGIES)}")
    try:
        return STRATEGIES[name](selector=selector, mutate=mutate, **options)
    except TypeError as error:
        raise ConfigError(
            f"strategy {name}: expected options that it takes, got {options!r}: {error}; "
            "see its class in graftwork.evolution.strategies"
        ) from error
