"""How a search grows its networks, and how far, as its config says."""

from collections.abc import Callable
from typing import Any

import numpy as np

from graftwork.evolution.mutation import R2RMutation
from graftwork.evolution.selection import make_selector
from graftwork.evolution.strategies import Strategy, make_strategy
from graftwork.machine import parse_latency
from graftwork.networks.genome import Genome, num_parameters
from graftwork.session._config import SearchConfig
from graftwork.session._planning import first_fraction
from graftwork.training import MemoryLimit

_BEGIN_ANEW = {"random", "large-scale-evolution", "enas"}
"""Strategies that make networks, or blocks, from new weights."""


def mutation_of(
    config: SearchConfig, memory: MemoryLimit | None = None, latency: Callable[[Genome], float] | None = None
) -> R2RMutation:
    """Make the mutation that a config asks for.

    Args:
        config: Options of the search.
        memory: How much training and scoring a member may take; ``None``: no limit.
        latency: Seconds that a network takes for one image, for ``max_latency``; ``None``: it is not looked at.
    """
    recipe = config.recipe
    most = None if config.max_latency is None else parse_latency(config.max_latency)
    return R2RMutation(
        deepen_probability=recipe.deepen_probability,
        kernel_probabilities=recipe.kernel_probabilities,
        concat_probability=recipe.concat_probability,
        hidden_multiple=recipe.hidden_multiple,
        min_shared_fraction=recipe.min_shared_fraction,
        max_parameters=config.max_parameters,
        max_flops=config.max_flops,
        memory=memory,
        fast_enough=None if latency is None or most is None else lambda genome: latency(genome) <= most,
        random_padding=config.random_padding,
    )


def strategy_of(
    config: SearchConfig, memory: MemoryLimit | None = None, latency: Callable[[Genome], float] | None = None
) -> Strategy:
    """Make the search strategy that a config asks for, with its selector and mutation; arguments as there."""
    selector = make_selector(config.selection, **config.selection_options)
    costs: dict[str, Callable[[Genome], float] | None] = {"parameters": num_parameters, "latency": latency}
    options: dict[str, Any] = {"cost": costs[config.cost]} if config.cost in costs else {}
    if config.strategy in _BEGIN_ANEW:
        options["initialisation"] = config.recipe.initialisation
    return make_strategy(config.strategy, selector=selector, mutate=mutation_of(config, memory, latency), **options)


def typical_genome(config: SearchConfig, genome: Genome, memory: MemoryLimit | None = None) -> Genome:
    """Grow the seed as often as a search grows its members on average: what it trains in the middle of its work.

    A member of round *r* has grown *r* times at most; the first round, which trains the seed itself, counts by its
    share of the work. The same for every seed of the random numbers.

    Args:
        config: Options of the search.
        genome: The seed network.
        memory: As in `mutation_of`.
    """
    mutation, rng = mutation_of(config, memory), np.random.default_rng(0)
    rounds = config.recipe.num_generations if config.recipe.population_size > 1 else 0
    for _ in range(round((1 - first_fraction(config.recipe)) * (rounds + 1) / 2) if rounds else 0):
        growth = mutation.draw(genome, rng=rng)(genome, rng=rng)
        if mutation.broken_limit(growth) is None:
            genome = growth.child
    return genome
