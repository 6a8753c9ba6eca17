"""What is known at once: data, sizes, and roughly what the budget comes to."""

from dataclasses import dataclass

from graftwork.datasets import Survey
from graftwork.machine import device_of, memory_limit
from graftwork.networks.genome import Genome, seed_genome, training_flops
from graftwork.session._config import SearchConfig, parse_image_size
from graftwork.session._planning import DEFAULT_STEPS
from graftwork.session._problem import Problem, seed_of
from graftwork.session._sizing import flops_of, memory_of, settle_batches
from graftwork.typing import Shape


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of a search before anything is decoded or measured, but roughly.

    Args:
        images: Number of images, the test split included.
        classes: Number of classes.
        input_shape: Channels, height and width that images are brought to.
        batch_size: Images in an update.
        generations: Generations at most.
        updates: Updates of the seed network that the budget comes to, roughly; ``None``: unknown.
        step_seconds: About what an update takes; ``None``: unknown.
        memory: Bytes that the seed network takes in training, about; ``None``: unknown.
        most_memory: Bytes that a member may take; ``None``: anything.
    """

    images: int
    classes: int
    input_shape: Shape
    batch_size: int
    generations: int
    updates: int | None
    step_seconds: float | None
    memory: int | None
    most_memory: int | None


def outline_of(config: SearchConfig, problem: Problem, *, speed: float | None, processes: int) -> Outline:
    """Outline a search whose data are read; arguments as of `outline_unread`."""
    dataset = problem.dataset
    images = len(dataset.images) + (0 if dataset.test_images is None else len(dataset.test_images))
    return _outline(config, seed_of(config, problem), images, speed=speed, processes=processes)


def outline_unread(config: SearchConfig, found: Survey, *, speed: float | None, processes: int) -> Outline:
    """Outline a search whose images are not decoded yet.

    Args:
        config: Its options, with the size that was chosen.
        found: What is known of the images.
        speed: Training FLOPs per second, roughly; ``None``: unknown.
        processes: Processes that search together on this machine, which share its memory.
    """
    size = parse_image_size(config.image_size)
    height, width = size if isinstance(size, tuple) else (size or found.height, size or found.width)
    name = config.recipe.seed_genome if config.trunk is None else "trunk"
    genome = seed_genome(name, (1 if found.grey else 3, height, width), max(2, found.num_classes))
    return _outline(config, genome, config.max_images or found.num_images, speed=speed, processes=processes)


def _outline(config: SearchConfig, genome: Genome, images: int, *, speed: float | None, processes: int) -> Outline:
    budget, most = config.budget, memory_limit(config.max_memory, device_of(config.device), processes=processes)
    config, _ = settle_batches(config, genome, most, flops=flops_of(budget, speed))
    recipe, flops = config.recipe, flops_of(budget, speed)
    if config.genome is None and config.trunk is None:  # it may have been replaced by a smaller one
        genome = seed_genome(recipe.seed_genome, genome.input_shape, genome.num_classes)
    update = training_flops(genome, recipe.batch_size)
    updates = None if flops is None else int(flops / update)
    if budget is not None and budget.kind == "steps":
        updates = int(budget.amount)
    elif budget is None and recipe.initial_steps is None:
        updates = DEFAULT_STEPS
    elif budget is None and recipe.initial_steps is not None:
        updates = recipe.initial_steps + recipe.num_generations * (recipe.steps_per_generation or 0)
    return Outline(
        images,
        genome.num_classes,
        genome.input_shape,
        recipe.batch_size,
        recipe.num_generations,
        updates,
        None if speed is None else update / speed,
        None if most is None else memory_of(config, most, genome).needed(genome),
        most,
    )
