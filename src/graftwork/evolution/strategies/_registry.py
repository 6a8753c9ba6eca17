"""Strategies by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from graftwork.errors import ConfigError, did_you_mean
from graftwork.evolution.mutation import Mutator
from graftwork.evolution.selection import Selector
from graftwork.evolution.strategies._enas import Enas
from graftwork.evolution.strategies._family import Family
from graftwork.evolution.strategies._grow_only import GrowOnly
from graftwork.evolution.strategies._large_scale import LargeScaleEvolution
from graftwork.evolution.strategies._neuroevolution import Neuroevolution
from graftwork.evolution.strategies._race import Race
from graftwork.evolution.strategies._random import RandomSearch
from graftwork.evolution.strategies._strategy import Strategy
from graftwork.evolution.strategies._transformation import TransformationRL
from graftwork.networks.genome import Genome

STRATEGIES: Mapping[str, Callable[..., Strategy]] = MappingProxyType(
    {
        "neuroevolution": Neuroevolution,
        "large-scale-evolution": LargeScaleEvolution,
        "transformation-rl": TransformationRL,
        "enas": Enas,
        "race": Race,
        "family": Family,
        "random": RandomSearch,
        "grow-only": GrowOnly,
    }
)
"""Factories by the name that ``--strategy`` takes; each takes ``mutate``, ``selector`` unless it ignores the selection,
and options of its own. A class may say what suits it: ``recipe``, numbers of a recipe that hold unless others are asked
for, ``ignores``, names of options that it has no use for, ``alone``, why several workers can't share it, ``begin``, the
network that it makes of the seed to begin with, and ``outlook``, what a user should know of the plan."""


def suited_recipe(name: str) -> Mapping[str, Any]:
    """Numbers of a recipe that suit a strategy, by name."""
    found: Mapping[str, Any] = getattr(STRATEGIES[name], "recipe", {})
    return found


def first_genome(name: str, seed: Genome) -> Genome:
    """The network that a strategy begins with: the seed, or what it makes of it."""
    begin: Callable[[Genome], Genome] = getattr(STRATEGIES[name], "begin", lambda genome: genome)
    return begin(seed)


def outlook(name: str, first: Genome, rounds: int) -> str:
    """What a strategy plans to make of its first network in so many rounds; empty where it does not say."""
    tell: Callable[[Genome, int], str] = getattr(STRATEGIES[name], "outlook", lambda *_: "")
    return tell(first, rounds) if rounds else ""


def ignored_options(name: str) -> frozenset[str]:
    """Names of the options of a search that a strategy has no use for."""
    found: frozenset[str] = getattr(STRATEGIES[name], "ignores", frozenset())
    return found


def why_alone(name: str) -> str | None:
    """Why a strategy can't be shared by several workers; ``None``: it can."""
    found: str | None = getattr(STRATEGIES[name], "alone", None)
    return found


def make_strategy(name: str, *, selector: Selector, mutate: Mutator, **options: Any) -> Strategy:
    """Make the strategy that is registered under a name.

    Args:
        name: A key of `STRATEGIES`.
        selector: Choice of survivors, for strategies that do not ignore the selection.
        mutate: Mutation that draws and applies growth.
        **options: Further arguments of its factory.

    Raises:
        ConfigError: If the name is unknown, or the strategy doesn't take an option.
    """
    check_strategy(name)
    chosen = {} if "selection" in ignored_options(name) else {"selector": selector}
    try:
        return STRATEGIES[name](mutate=mutate, **chosen, **options)
    except TypeError as error:
        raise ConfigError(
            f"strategy {name}: expected options that it takes, got {options!r}: {error}; "
            "see its class in graftwork.evolution.strategies"
        ) from error


def check_strategy(name: str) -> None:
    """Raise ConfigError unless a strategy of that name is registered; the message suggests the nearest one."""
    if name not in STRATEGIES:
        hint = did_you_mean(name, STRATEGIES) or "; take one of these"
        raise ConfigError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {name!r}{hint}")
