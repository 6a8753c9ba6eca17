"""Selectors by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from graftwork.errors import ConfigError, did_you_mean
from graftwork.evolution.selection._age import AgeSelector
from graftwork.evolution.selection._coevolution import CoevolutionSelector
from graftwork.evolution.selection._greedy import GreedySelector
from graftwork.evolution.selection._pareto import ParetoSelector
from graftwork.evolution.selection._random import RandomSelector
from graftwork.evolution.selection._selector import Selector
from graftwork.evolution.selection._tournament import TournamentSelector

SELECTORS: Mapping[str, Callable[..., Selector]] = MappingProxyType(
    {
        "greedy": GreedySelector,
        "random": RandomSelector,
        "coevolution": CoevolutionSelector,
        "pareto": ParetoSelector,
        "tournament": TournamentSelector,
        "age": AgeSelector,
    }
)
"""Factories by the name that ``--selection`` takes. A selector that stands here is tested by the contract suite."""


def make_selector(name: str, **options: Any) -> Selector:
    """Make the selector that is registered under a name.

    Args:
        name: A key of ``SELECTORS``.
        **options: Arguments of its factory, such as ``power=1`` for ``coevolution``.

    Raises:
        ConfigError: If the name is unknown (the message suggests the nearest one), or the selector doesn't take
            these options.
    """
    if name not in SELECTORS:
        hint = did_you_mean(name, SELECTORS)
        raise ConfigError(f"selection: expected one of {', '.join(SELECTORS)}, got {name!r}{hint}")
    try:
        return SELECTORS[name](**options)
    except TypeError as error:
        raise ConfigError(f"selection {name}: expected options that it takes, got {options!r}: {error}") from error
