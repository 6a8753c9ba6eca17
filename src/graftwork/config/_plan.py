"""From a budget to a plan: how much work each round gets, and how large images are."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from graftwork._plan import Plan
from graftwork.config._budget import parse_budget
from graftwork.config._config import SearchConfig
from graftwork.errors import ConfigError, GenomeError
from graftwork.genome import Genome, training_flops
from graftwork.training import Recipe, calibrate_speed, most_parts

if TYPE_CHECKING:
    from graftwork.config._setup import Setup

__all__ = ["make_plan", "measure_speed", "shared_part"]

SMALLEST_SIDE = 16
"""Images are not shrunk below so many pixels a side."""

DEFAULT_STEPS = 2000
"""Without a budget, a recipe that counts in FLOPs gets those of so many updates of the seed network."""

TIME_MARGIN = 0.92
"""Part of a time budget that is planned for: mutation, draws and checkpoints take the rest."""


def make_plan(setup: "Setup") -> Plan:
    """Turn the config's budget into a plan, and say what an update is.

    A budget of time is turned into FLOPs by ``setup.speed``, which is measured here unless it is known.

    Raises:
        ConfigError: If the budget does not reach for one step a round.
    """
    recipe = setup.config.recipe
    size = _small_size(recipe, setup.population.genomes[0])
    return replace(
        _budgeted(setup),
        members_per_step=recipe.members_per_step,
        small_share=0.0 if size is None else recipe.small_share,
        small_size=size,
        fork_fraction=recipe.fork_fraction,
        fork_layer=recipe.fork_layer,
        fork_start=recipe.fork_start,
        trunk_rate=recipe.trunk_rate,
    )


def _small_size(recipe: Recipe, genome: Genome) -> tuple[int, int] | None:
    """Height and width of shrunk images; ``None`` where images are not shrunk."""
    height, width = (round(side * recipe.small_scale) for side in genome.input_shape[1:])
    if recipe.small_share == 0 or min(height, width) < SMALLEST_SIDE:
        return None
    try:
        genome.at_size(height, width)
    except GenomeError:  # a head with a weight for every position, or pools that would leave nothing
        return None
    return height, width


def _budgeted(setup: "Setup") -> Plan:
    """How much work each round gets; steps are split as the recipe's own are.

    Raises:
        ConfigError: If the budget does not reach for one step a round.
    """
    config, recipe = setup.config, setup.config.recipe
    generations, genome, fraction = recipe.num_generations, setup.population.genomes[0], first_part(recipe)
    if config.budget is None:
        if recipe.initial_steps is not None and recipe.steps_per_generation is not None:
            return Plan(generations, recipe.initial_steps, recipe.steps_per_generation)
        whole = DEFAULT_STEPS * training_flops(genome, setup.trainer.batch_size)
        return _flops_plan(setup, generations, whole, fraction)
    budget = parse_budget(config.budget)
    if budget.kind == "steps":
        initial = max(1, round(budget.amount * fraction))
        each = int((budget.amount - initial) // generations) if generations else 0
        if generations and each < 1:
            raise ConfigError(f"budget: {config.budget} leaves no step for each of {generations} generations")
        return Plan(generations, initial, each)
    flops = budget.amount
    if budget.kind == "seconds":
        if setup.speed is None:
            setup.speed = measure_speed(setup, setup.trainer.batch_size)
        flops = setup.speed * budget.amount * TIME_MARGIN
    return _flops_plan(setup, generations, int(flops), fraction)


def first_part(recipe: Recipe) -> float:
    """Part of the whole work that the first round gets."""
    if recipe.initial_fraction is not None:
        return recipe.initial_fraction
    whole = (recipe.initial_steps or 0) + recipe.num_generations * (recipe.steps_per_generation or 0)
    return (recipe.initial_steps or 0) / whole if whole else 1.0


def shared_part(config: SearchConfig, *, batch_size: int, num_workers: int) -> float:
    """Part of a search's training in which workers share every batch, instead of dealing members: 0 to 1.

    That is the first round, and the others too where ``sync_every`` is 0 or there are fewer members than workers;
    nothing at all where a batch has not two images for every worker.
    """
    if num_workers > most_parts(batch_size):
        return 0.0
    if config.sync_every == 0 or config.recipe.population_size < num_workers or config.recipe.num_generations == 0:
        return 1.0
    return first_part(config.recipe)


def measure_speed(setup: "Setup", batch_size: int) -> float:
    """Training FLOPs per second over a whole search, timed on updates of ``batch_size`` images."""
    genome, recipe = setup.population.genomes[0], setup.config.recipe
    small_size = _small_size(recipe, genome)
    shares = {genome: 1.0}
    if small_size is not None:
        shares = {genome: 1 - recipe.small_share, genome.at_size(*small_size): recipe.small_share}
    seconds = 0.0
    for network, share in shares.items():
        seconds += share / calibrate_speed(
            network,
            rules=recipe.rules,
            batch_size=batch_size,
            augmentation=setup.trainer.batches.augmentation,
            precision=setup.precision.precision,
        )
    return 1 / seconds


def _flops_plan(setup: "Setup", generations: int, flops: int, fraction: float) -> Plan:
    plan = Plan(generations, flops=flops, initial_fraction=fraction if generations else 1.0)
    genome = setup.population.genomes[0]
    needed = setup.scorer.flops([genome]) + training_flops(genome, setup.trainer.batch_size)
    rounds: Mapping[str, float] = {
        "the first round": plan.flops_until(0),
        "a generation": (flops - plan.flops_until(0)) / generations if generations else flops,
    }
    for name, share in rounds.items():
        if share < needed:
            raise ConfigError(
                f"budget: {flops / 1e15:.2g} PFLOP leave {share / 1e12:.3g} TFLOP for {name}, but scoring and one step "
                f"of the seed network need {needed / 1e12:.3g}; raise the budget or lower num_generations"
            )
    return plan
