"""Selectors by name."""

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from graftwork.errors import ConfigError
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
        name: a key of ``SELECTORS``.
        **options: arguments of its factory, such as ``power=1`` for ``coevolution``.

    Raises:
        ConfigError: the name is unknown (the message suggests the nearest one), or the selector doesn't take
            these options.
    """
    if name not in SELECTORS:
        near = difflib.get_close_matches(name, SELECTORS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        msg = f"selection has to be one of {', '.join(SELECTORS)}, but is {name!r}{hint}"
        raise ConfigError(msg)
    try:
        return SELECTORS[name](**options)
    except TypeError as error:
        msg = f"selection {name!r} can't take the options {options!r}: {error}"
        raise ConfigError(msg) from error
