"""How large images are, and how many are taken at once: what a config leaves to data, budget and memory."""

from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from typing import Any, NamedTuple

from graftwork.datasets import LARGEST_UNASKED, Survey, is_decoded, survey
from graftwork.errors import GraftworkError
from graftwork.machine import Machine, TimedNetwork, device_of, memory_limit
from graftwork.networks.genome import Genome, forward_flops, seed_genome, training_flops
from graftwork.session._budget import Budget
from graftwork.session._config import SearchConfig, parse_image_size
from graftwork.session._problem import most_calibration, read_genome
from graftwork.training import SMALLEST_BATCH, MemoryLimit, Passes, Precision, Recipe
from graftwork.typing import Shape

SIDES = (128, 64, 24)
"""Sides of the squares to whose pixels images are reduced, largest first; others cost about as much as the next larger,
by the default seed's stem."""

KEPT = 32
"""Images of no more pixels than a square of this side are never reduced."""

ENOUGH_IMAGES, ENOUGH_LARGE = 4_000, 500_000
"""Images that a budget should reach for in training the seed network, the same one counted each time that it is seen,
for a size up to 64 pixels, and above (docs/how-to/photos.md says what was measured)."""

TRUNK_SIDE = 224
"""Side for the images of a trunk, which sees each of them once."""

_TRAINED = 0.7
"""Share of a time budget that goes into training and scoring, as a guess before anything is measured."""
_DECODED = 0.07
"""Share of a time budget that decoding may take; measuring takes a little less."""
_LEAST = {"batch_size": 16, "scoring_batch_size": 50, "num_calibration": 50}


def choose_size(
    found: Survey, recipe: Recipe, *, flops: float | None, fits: Callable[[Genome], bool]
) -> tuple[int, int]:
    """Choose height and width of images: the largest of `SIDES` that budget and memory allow, but none is enlarged.

    Args:
        found: What is known of the images.
        recipe: Its seed network says what an image costs.
        flops: What the budget may come to; ``None``: it does not count FLOPs, and 64 pixels a side are enough.
        fits: Tells whether memory holds a network.
    """
    if sqrt(found.height * found.width) <= KEPT:
        return found.height, found.width
    for side in SIDES:
        size = found.frame(side)
        large = side > LARGEST_UNASKED and size != found.frame(LARGEST_UNASKED)
        if large and flops is None:
            continue
        genome, enough = _cheapest(recipe, found, size, flops), ENOUGH_LARGE if large else ENOUGH_IMAGES
        if fits(genome) and (flops is None or flops >= training_flops(genome, enough)):
            return size
    return found.frame(SIDES[-1])


def _cheapest(recipe: Recipe, found: Survey, size: tuple[int, int], flops: float | None) -> Genome:
    """The recipe's seed network for images of a size, or the smaller one that a short budget begins with.

    Not the larger one that a long budget affords: else more FLOPs could mean smaller images.
    """
    shape = (1 if found.grey else 3, *size)
    names = (recipe.seed_genome, _seed_name(recipe, shape, 2, flops))
    return min((seed_genome(name, shape, 2) for name in names), key=forward_flops)


def _seed_name(recipe: Recipe, input_shape: Shape, num_classes: int, flops: float | None) -> str:
    """The largest seed network that a budget trains on enough images, by `Recipe.seed_sizes`."""
    if flops is None or not recipe.seed_sizes:
        return recipe.seed_genome
    first, *_ = recipe.seed_sizes
    enough = (
        name
        for name, images in reversed(list(recipe.seed_sizes.items()))
        if training_flops(seed_genome(name, input_shape, num_classes), images) <= flops
    )
    return next(enough, first)


class Sized(NamedTuple):
    """What `settle_size` decides.

    Args:
        config: The options, without ``"auto"``.
        notes: What a user should know, a sentence each.
        found: What is known of the images; ``None`` where nobody had to look.
    """

    config: SearchConfig
    notes: tuple[str, ...] = ()
    found: Survey | None = None


def settle_size(config: SearchConfig, *, flops: float | None = None, processes: int = 1) -> Sized:
    """Replace ``image_size = "auto"`` by what is chosen.

    Args:
        config: Options of a search.
        flops: What the budget comes to, roughly (see `flops_of`); ``None``: it does not count FLOPs.
        processes: Processes that search together on this machine, which share its memory.
    """
    if config.image_size != "auto":
        return Sized(config)
    found = survey(config.data, **_reading(config))
    if found is None:
        return Sized(config)
    if config.trunk is not None:
        return Sized(_sized(config, *found.frame(TRUNK_SIDE)))
    if config.genome is not None:
        _, height, width = read_genome(config.genome).input_shape
        return Sized(_sized(config, height, width))
    most = memory_limit(config.max_memory, device_of(config.device), processes=processes)

    def fits(genome: Genome) -> bool:
        return most is None or memory_of(config, most, genome).holds(genome)

    height, width = choose_size(found, config.recipe, flops=flops, fits=fits)
    config, notes = _in_time(_sized(config, height, width), found, (height, width))
    if (height, width) == (found.height, found.width):
        return Sized(config, notes, found)
    asked = "without a budget" if config.budget is None else f"for a budget of {config.budget}"
    note = f"images: {found.height}×{found.width} are reduced to {height}×{width} {asked} (--image-size)"
    return Sized(config, (note, *notes), found)


def _in_time(config: SearchConfig, found: Survey, size: tuple[int, int]) -> tuple[SearchConfig, tuple[str, ...]]:
    """Leave out images where decoding all would take too much of a budget of time."""
    budget = config.budget
    if budget is None or budget.kind != "seconds" or config.max_images is not None:
        return config, ()
    allowed = _DECODED * budget.amount
    asked = parse_image_size(config.image_size)
    if found.decoding_seconds <= allowed or is_decoded(found, image_size=asked or size, **_reading(config)):
        return config, ()
    most = max(1, round(found.num_images * allowed / found.decoding_seconds))
    note = (
        f"images: decoding all {found.num_images:,} would take about {found.decoding_seconds:.0f} s, so about {most:,} "
        f"are used for a budget of {budget} (max_images)"
    )
    return replace(config, max_images=most), (note,)


def _sized(config: SearchConfig, height: int, width: int) -> SearchConfig:
    return replace(config, image_size=height if height == width else f"{height}x{width}")


def _reading(config: SearchConfig) -> dict[str, Any]:
    """Options of reading, but for sizes."""
    names = ("image_column", "label_column", "group_column", "image_root", "skip_bad_images")
    return {name: getattr(config, name) for name in names}


def rough_speed(config: SearchConfig) -> float | None:
    """Training FLOPs per second, roughly: by three steps of the recipe's seed network on a few small images.

    ``None`` where it can't be trained by the recipe's rates: the search itself says so.
    """
    genome, size = seed_genome(config.recipe.seed_genome, (3, KEPT, KEPT), 2), 16
    network = TimedNetwork(genome, rules=config.recipe.rules, batch_size=size, device=device_of(config.device))
    try:
        return training_flops(genome, size) / network.rough_seconds()
    except GraftworkError:
        return None


def flops_of(budget: Budget | None, speed: float | None) -> float | None:
    """FLOPs that a budget comes to, those of a time roughly; ``None``: it does not count FLOPs.

    Args:
        budget: What a search may spend.
        speed: Training FLOPs per second (see `rough_speed`); ``None``: unknown.
    """
    if budget is None or budget.kind == "steps":
        return None
    if budget.kind == "flops":
        return budget.amount
    return None if speed is None else _TRAINED * budget.amount * speed


def memory_of(config: SearchConfig, most: int, genome: Genome, *, machine: Machine | None = None) -> MemoryLimit:
    """The limit for networks that take the images of a genome.

    Args:
        config: Options of a search.
        most: Bytes.
        genome: The seed network, or one for images of the same size.
        machine: How steps run; ``None``: nothing is measured yet, and what takes most counts.
    """
    recipe = config.recipe
    precision: Precision = "bfloat16" if config.precision == "bfloat16" else "float32"
    passes: Passes = "compiled" if config.passes == "compiled" else "torch"
    if machine is not None:
        precision, passes = machine.precision, machine.passes
    scoring = max(config.scoring_batch_size, most_calibration(recipe.num_calibration, genome.input_shape))
    return MemoryLimit(most, recipe.batch_size, scoring, recipe.rules, precision, passes)


def settle_batches(
    config: SearchConfig, genome: Genome, most: int | None, *, flops: float | None = None
) -> tuple[SearchConfig, tuple[str, ...]]:
    """Choose seed network and batches: what the budget trains enough, and memory holds.

    Args:
        config: Options of a search.
        genome: Its seed network, which should take at most half of the memory that a member may: members grow.
        most: Bytes that a member may take; ``None``: anything.
        flops: What the budget comes to, roughly (see `flops_of`); ``None``: it does not count FLOPs.

    Returns:
        The options, and what a user should know, a sentence each.
    """
    config, seeded = _seeded(config, genome, flops)
    if seeded:
        genome = seed_genome(config.recipe.seed_genome, genome.input_shape, genome.num_classes)
    config, halved = _with_updates(config, genome, flops)
    config, fitted = _in_memory(config, genome, most)
    return config, (*seeded, *halved, *fitted)


def _seeded(config: SearchConfig, genome: Genome, flops: float | None) -> tuple[SearchConfig, tuple[str, ...]]:
    """Begin with a seed network of the size that the budget trains enough."""
    recipe = config.recipe
    if config.genome is not None or config.trunk is not None:
        return config, ()
    name = _seed_name(recipe, genome.input_shape, genome.num_classes, flops)
    if name == recipe.seed_genome:
        return config, ()
    note = (
        f"training: the search begins with the {name} seed network instead of the {recipe.seed_genome} one, whose size "
        f"suits a budget of {config.budget} less (seed_genome)"
    )
    return replace(config, recipe=recipe.replace(seed_genome=name)), (note,)


def _with_updates(config: SearchConfig, genome: Genome, flops: float | None) -> tuple[SearchConfig, tuple[str, ...]]:
    """Halve the batches of training until the budget makes ``min_updates`` of the seed network."""
    recipe = config.recipe
    size = recipe.batch_size
    while flops is not None and size > SMALLEST_BATCH and flops < recipe.min_updates * training_flops(genome, size):
        size = max(SMALLEST_BATCH, size // 2)
    if size == recipe.batch_size:
        return config, ()
    note = (
        f"training: batches of {size} images instead of {recipe.batch_size}, as a budget of {config.budget} makes few "
        "updates (--batch-size)"
    )
    return replace(config, recipe=recipe.replace(batch_size=size)), (note,)


def _in_memory(config: SearchConfig, genome: Genome, most: int | None) -> tuple[SearchConfig, tuple[str, ...]]:
    """Halve batches until the seed network takes at most half of the memory that a member may."""
    if most is None:
        return config, ()
    limit = replace(memory_of(config, most, genome), most=most // 2)
    sizes = {
        "batch_size": config.recipe.batch_size,
        "scoring_batch_size": config.scoring_batch_size,
        "num_calibration": most_calibration(config.recipe.num_calibration, genome.input_shape),
    }
    found = {name: _halved(name, size, limit, genome) for name, size in sizes.items()}
    changed = {name: size for name, size in found.items() if size != sizes[name]}
    if not changed:
        return config, ()
    recipe = config.recipe.replace(**{name: size for name, size in changed.items() if name != "scoring_batch_size"})
    words = ", ".join(f"{name} {size} instead of {sizes[name]}" for name, size in changed.items())
    note = f"memory: {most / 1e9:.3g} GB for a member are little for images of this size, so {words}"
    return replace(config, recipe=recipe, scoring_batch_size=found["scoring_batch_size"]), (note,)


def _halved(name: str, size: int, limit: MemoryLimit, genome: Genome) -> int:
    """The size, or the largest half, quarter, … of it with which the network fits; not below `_LEAST`."""
    training = name == "batch_size"

    def fits() -> bool:
        alone = replace(limit, batch_size=size if training else 1, scoring_size=1 if training else size)
        return alone.holds(genome)

    while size > _LEAST[name] and not fits():
        size = max(_LEAST[name], size // 2)
    return size
