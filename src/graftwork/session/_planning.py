"""From a budget to a plan: how much work each round gets, and how large images are."""

from dataclasses import replace
from typing import Any

import torch

from graftwork.errors import ConfigError, GenomeError
from graftwork.evolution import Plan
from graftwork.machine import HURRY, Machine, Speed, calibrate_speed
from graftwork.networks.genome import Genome, training_flops
from graftwork.session._budget import Budget
from graftwork.training import Recipe, most_parts

SMALLEST_SIDE = 16
"""Images are not shrunk below so many pixels a side."""

DEFAULT_STEPS = 2000
"""Without a budget, a recipe that counts in FLOPs gets those of so many updates of the seed network."""

RACE_SHARE = 0.1
"""Share of a budget that the race over mirroring may take."""

RACE_STEPS = (10, 50)
"""Updates of each network in the race: with fewer it says too little, and more are not needed."""

TIME_MARGIN = 0.92
"""Share of a time that is planned for where nothing is planned again: mutation, draws and checkpoints take the rest."""


def make_plan(
    budget: Budget | None,
    recipe: Recipe,
    genome: Genome,
    *,
    batch_size: int,
    scoring_flops: int,
    speed: float | None = None,
    seconds: float | None = None,
    race: bool = False,
    extra: int = 0,
) -> Plan:
    """Turn a budget into a plan: how much work each round gets, and how large images are.

    A budget that does not reach for every generation of the recipe makes fewer, down to none: the seed network alone. A
    time that is over before the first step makes one step.

    Args:
        budget: What the search may spend; ``None``: the steps of the recipe, or `DEFAULT_STEPS` where it counts in
            FLOPs.
        recipe: Rounds, and how the work is divided among them.
        genome: The seed network.
        batch_size: Images in an update.
        scoring_flops: FLOPs of scoring the seed network once.
        speed: Training FLOPs per second, which a budget of time needs (see `measure_speed`).
        seconds: What is left of a budget of time, all of which is planned for; ``None``: `TIME_MARGIN` of the whole.
        race: Whether a race decides if images are mirrored. It is part of the budget; where that is too small for one,
            there is none.
        extra: FLOPs of an update beside those of the network.

    Raises:
        ConfigError: If the budget does not reach for one step of the seed network, or is a time and no speed is given.
    """
    size = small_size(recipe, genome)
    share = 0.0 if size is None else recipe.small_share
    fraction = first_fraction(recipe)
    update = training_flops(genome, batch_size) + extra
    small: dict[str, Any] = {"small_share": share, "small_size": size}
    if budget is None and recipe.initial_steps is not None and recipe.steps_per_generation is not None:
        steps = (recipe.num_generations, recipe.initial_steps, recipe.steps_per_generation)
        return Plan(*steps, **small, race_steps=RACE_STEPS[1] if race else 0)
    if budget is not None and budget.kind == "steps":
        raced = _race_steps(budget.amount, update=1, scoring=0) if race else 0
        budget = replace(budget, amount=budget.amount - 2 * raced)
        return Plan(*_divided(budget, recipe.num_generations, fraction), **small, race_steps=raced)
    flops = DEFAULT_STEPS * update if budget is None else _flops(budget, speed, seconds)
    if budget is not None and budget.kind == "seconds":
        flops = max(flops, scoring_flops + update)
    step = update if size is None else training_flops(genome.at_size(*size), batch_size) + extra
    raced = _race_steps(flops, update=step, scoring=scoring_flops) if race else 0
    if raced:
        flops -= 2 * raced * step + 3 * scoring_flops
    generations = _generations(recipe, flops, fraction, scoring=scoring_flops, update=update)
    if generations == 0:
        fraction = 1.0
    return Plan(generations, flops=flops, initial_fraction=fraction, **small, race_steps=raced)


def _race_steps(whole: float, *, update: float, scoring: float) -> int:
    """Updates of each network in the race: what its share of the whole work allows; 0: none."""
    steps = min(RACE_STEPS[1], int((RACE_SHARE * whole - 3 * scoring) // (2 * update)))
    return steps if steps >= RACE_STEPS[0] else 0


def race_flops(genome: Genome, plan: Plan, batch_size: int, scoring_flops: int) -> int:
    """FLOPs of the race: two networks are trained, scored, and one of them is scored in the mirror, too."""
    small = genome if plan.small_size is None else genome.at_size(*plan.small_size)
    return 2 * plan.race_steps * training_flops(small, batch_size) + 3 * scoring_flops


def first_fraction(recipe: Recipe) -> float:
    """Fraction of the whole work that the first round gets."""
    if recipe.initial_fraction is not None:
        return recipe.initial_fraction
    whole = (recipe.initial_steps or 0) + recipe.num_generations * (recipe.steps_per_generation or 0)
    return (recipe.initial_steps or 0) / whole if whole else 1.0


def small_size(recipe: Recipe, genome: Genome) -> tuple[int, int] | None:
    """Height and width of shrunk images; ``None`` where images are not shrunk."""
    height, width = (round(side * recipe.small_scale) for side in genome.input_shape[1:])
    if recipe.small_share == 0 or min(height, width) < SMALLEST_SIDE:
        return None
    try:
        genome.at_size(height, width)
    except GenomeError:  # a head with a weight for every position, or pools that would leave nothing
        return None
    return height, width


def shared_fraction(recipe: Recipe, *, sync_every: int, batch_size: int, num_workers: int) -> float:
    """Fraction of a search's training in which workers share every batch, instead of dealing members: 0 to 1.

    That is the first round, and the others too where ``sync_every`` is 0 or there are fewer members than workers;
    nothing at all where a batch has not two images for every worker.
    """
    if num_workers > most_parts(batch_size):
        return 0.0
    if sync_every == 0 or recipe.population_size < num_workers or recipe.num_generations == 0:
        return 1.0
    return first_fraction(recipe)


def measure_speed(
    recipe: Recipe,
    genome: Genome,
    machine: Machine,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    effort: float = 1.0,
) -> Speed:
    """Time updates of the seed network, on whole and on shrunk images as the search trains on them.

    Args:
        recipe: Optimizer, augmentation and the share of shrunk images.
        genome: The seed network.
        machine: How steps run; its precision is used, its passes and threads have to be set.
        batch_size: Images in an update.
        device: Device that steps run on.
        effort: Share of the usual time to spend on it, 0 to 1. In a hurry one step of fewer images has to do, whole
            ones alone; such a plan is soon made again.
    """
    size, hurried = small_size(recipe, genome), effort < HURRY
    whole, *small = (
        calibrate_speed(
            network,
            rules=recipe.rules,
            batch_size=min(batch_size, 32) if hurried else batch_size,
            augmentation=recipe.augmentation.resolve(genome.input_shape),
            precision=machine.precision,
            device=device,
            seconds=1.5 * effort,
            least=1 if hurried else 3,
        )
        for network in ([genome] if size is None or hurried else [genome, genome.at_size(*size)])
    )
    return Speed(whole, small[0] if small else whole)


def _divided(budget: Budget, generations: int, fraction: float) -> tuple[int, int, int]:
    """Generations, and updates of the first round and of each generation, divided as the recipe's own are.

    Raises:
        ConfigError: If there is not one update.
    """
    steps = int(budget.amount)
    if steps < 1:
        raise ConfigError(f"budget: expected at least one step, got {budget}; raise the budget")
    initial = max(1, round(budget.amount * fraction)) if generations else steps
    generations = min(generations, steps - initial)
    return (generations, initial, (steps - initial) // generations) if generations else (0, steps, 0)


def _generations(recipe: Recipe, flops: int, fraction: float, *, scoring: int, update: int) -> int:
    """Number of generations that the budget reaches for: each scores a population and makes one update at least.

    Members are counted as large as the seed network, and apart: they grow, but share most of their scoring.

    Raises:
        ConfigError: If it does not reach for scoring and one update of the seed network.
    """
    if flops < scoring + update:
        raise ConfigError(
            f"budget: expected at least {(scoring + update) / 1e12:.3g} TFLOP (scoring and one step of the seed "
            f"network), got {flops / 1e12:.3g}; raise the budget"
        )
    if flops * fraction < scoring + update:
        return 0
    fit = int(flops * (1 - fraction) // (recipe.population_size * scoring + update))
    return min(recipe.num_generations, fit)


def _flops(budget: Budget, speed: float | None, seconds: float | None) -> int:
    if budget.kind == "flops":
        return int(budget.amount)
    if speed is None:
        raise ConfigError(f"budget: expected a speed to turn {budget} into FLOPs, got none; measure it first")
    return int(speed * (TIME_MARGIN * budget.amount if seconds is None else seconds))
