"""A search over rows or images in memory, without a run folder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from graftwork.datasets import ImageDataset, Splits, split
from graftwork.ensembles import Combiner, fit_combiner
from graftwork.errors import ConfigError, did_you_mean
from graftwork.evolution import Generation, SearchState, search
from graftwork.machine import Machine, Speed
from graftwork.networks.execution import InputTransform, using_kernels
from graftwork.networks.genome import Genome, forward_flops, num_parameters, training_flops
from graftwork.session import (
    METHODS,
    Budget,
    Problem,
    SearchConfig,
    Setup,
    measure_speed,
    methods_for,
    prepare,
    seed_of,
)
from graftwork.sklearn._fitted import Fitted, pack_fit
from graftwork.sklearn._rows import Rows
from graftwork.training import Augmentation, BankOptimizer, Recipe
from graftwork.typing import MemberId

RECOMMENDED = "recommended"
_ENOUGH_ROWS, _ENOUGH_OF_EACH = 500, 10
"""Rows, and rows of the rarest class, from which on some are held out to select by; fewer all train a seed."""
_FIRST_STEPS, _PASSES, _MOST_STEPS = 30, 40, 2000
"""Updates of "auto": some, and those of so many passes over the rows, but not more than `_MOST_STEPS`."""
_EFFORT, _MARGIN = 0.25, 0.85
"""Share of the usual effort that a speed is measured with, and share of a time that is planned for."""
_SMALLEST_SHIFTED = 4
"""Pixels of the shorter side from which on images are shifted in training."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be told apart.

    Args:
        rows: float64 [N, 1, 1, features] of a table; uint8 or float32 [N, H, W, C] of images.
        num_classes: Number of classes.
        table: Whether rows are features, which are standardised one by one, rather than images.
        warm: An earlier fit, whose networks train and grow further; ``None``: begin with the seed network.
    """

    rows: Rows
    num_classes: int
    table: bool
    warm: Fitted | None = None


def fit_rows(task: Task, config: SearchConfig, *, ensemble: str | None) -> Fitted:
    """Search for networks that tell the classes of rows apart.

    Args:
        task: Rows and classes.
        config: Recipe, selection, seed and budget; without a budget it goes by the number of rows and features.
        ensemble: ``"recommended"``, a method of `graftwork.session.METHODS`, or ``None`` for the best member alone.

    Raises:
        ConfigError: If an option is out of its range, or the rows are too few for the ensemble that is named.
    """
    _check_ensemble(ensemble)
    problem, mean, std = _problem(task, config.seed)
    config = replace(config, recipe=_recipe_for(task, config.recipe, problem))
    genome = _largest(task.warm.state()) if task.warm else seed_of(config, problem)
    if config.budget is None:
        config = replace(config, budget=_auto_budget(genome, config.recipe, problem.splits))
    with using_kernels(None):
        setup = prepare(config, problem=problem, seed_network=genome, machine=Machine(), time_speed=_speed)
        if task.warm is not None:
            _continue(setup, task.warm.state())
        last = list(search(setup.state, progress=False, **setup.parts))[-1]
        best = max(last.survivors, key=lambda name: float(last.evaluation.scores[last.members.index(name)]))
        method, combiner = _combined(setup, last, ensemble)
    return pack_fit(
        setup,
        members=[best] if combiner is None else list(last.survivors),
        combiner=combiner,
        mean=mean,
        std=std,
        table=task.table,
        ensemble=method,
        validation_accuracy=last.accuracies[best] if len(problem.splits.blend) else None,
    )


def _check_ensemble(ensemble: str | None) -> None:
    if ensemble is not None and ensemble != RECOMMENDED and ensemble not in METHODS:
        known = (RECOMMENDED, *METHODS)
        raise ConfigError(
            f"ensemble: expected one of {', '.join(known)} or None, got {ensemble!r}"
            f"{did_you_mean(ensemble, known) or '; take one'}"
        )


def _problem(task: Task, seed: int) -> tuple[Problem, list[float], list[float]]:
    """The data as a search needs them, and mean and deviation by which they are normalised."""
    rows, values = task.rows, task.rows.values
    every = rows.repeated(np.arange(len(rows.labels)))
    if task.table:
        mean, std = _moments(task, values[every, 0, 0])
        values = ((values - mean) / std).astype(np.float32)
    names = tuple(map(str, range(task.num_classes)))
    dataset = ImageDataset("rows", values, rows.labels, names, fingerprint="")
    splits = _held_out(dataset, rows, seed)
    if task.table:
        width = len(mean)
        problem = Problem(dataset, splits, InputTransform((0.0,) * width, (1 / 255,) * width))
        return problem, mean.tolist(), std.tolist()
    problem = Problem.of(dataset, splits)
    if task.warm is not None:
        problem = replace(
            problem, transform=InputTransform(tuple(task.warm.data["mean"]), tuple(task.warm.data["std"]))
        )
    return problem, list(problem.transform.mean), list(problem.transform.std)


def _moments(task: Task, features: Any) -> tuple[Any, Any]:
    """Mean and deviation of each feature, float64 [features]; a feature that never differs is not scaled."""
    if task.warm is not None:
        return np.array(task.warm.data["mean"]), np.array(task.warm.data["std"])
    std = features.std(0)
    return features.mean(0), np.where(std > 0, std, 1.0)


def _held_out(dataset: ImageDataset, rows: Rows, seed: int) -> Splits:
    """Splits without a test split. Of few rows none are held out: they train and score the seed network."""
    everything, nothing = np.arange(len(rows.labels)), np.array([], dtype=np.int64)
    if len(rows.labels) < _ENOUGH_ROWS or rows.fewest < _ENOUGH_OF_EACH:
        return Splits(rows.repeated(everything), everything, nothing, nothing, everything)
    found = split(dataset, seed=seed, test=0)
    names = ("train", "validation", "blend", "test", "order")
    return Splits(*(rows.repeated(getattr(found, name)) for name in names))


def _recipe_for(task: Task, recipe: Recipe, problem: Problem) -> Recipe:
    """The recipe, without what these rows can't have."""
    changes: dict[str, Any] = {}
    if not len(problem.splits.blend):
        changes["num_generations"] = 0
        if recipe.seed_genome == "default":  # too large to be trained by few rows, which cost little then
            changes["seed_genome"] = "poster"
    if recipe.class_weights == "auto":  # rows are weighted by their weights alone
        changes["class_weights"] = "none"
    changed = recipe.augmentation
    if task.table:
        changes |= {"seed_genome": "table", "kernel_probabilities": (1, 0, 0), "small_share": 0.0}
    if task.table or min(problem.input_shape[1:]) < _SMALLEST_SHIFTED:
        changes["augmentation"] = Augmentation()
    elif problem.dataset.images.dtype != np.uint8 and any((changed.scale, changed.colour, changed.erase, changed.mix)):
        raise ConfigError(
            "recipe: expected an augmentation that mirrors and shifts alone for images of real numbers, got "
            f"{changed!r}; give the images as uint8, or a recipe whose augmentation is .at('light')"
        )
    return recipe.replace(**changes)


def _auto_budget(genome: Genome, recipe: Recipe, splits: Splits) -> Budget:
    """FLOPs by the number of rows and what a network takes for one of them: the same on every machine."""
    batch = min(recipe.batch_size, len(splits.train))
    rows = len(np.unique(splits.train))
    steps = min(_MOST_STEPS, _FIRST_STEPS + _PASSES * rows // batch)
    scorings = 1 + recipe.num_generations * recipe.population_size
    scored = len(splits.validation) + min(recipe.num_calibration, len(splits.order))
    flops = steps * training_flops(genome, batch) + scorings * scored * forward_flops(genome)
    return Budget("flops", flops, f"{flops / 1e15!r}PFLOP")


def _speed(recipe: Recipe, genome: Genome, machine: Machine, **how: Any) -> Speed:
    speed = measure_speed(recipe, genome, machine, **{**how, "effort": _EFFORT})
    return Speed(_MARGIN * speed.whole, _MARGIN * speed.small)


def _largest(state: SearchState) -> Genome:
    return max(state.population.genomes, key=num_parameters)


def _continue(setup: Setup, earlier: SearchState) -> None:
    """Let a search begin with the survivors of an earlier one; its optimizer starts without state."""
    setup.state = SearchState(earlier.population, earlier.rng)
    setup.trainer.optimizer = BankOptimizer(earlier.population.bank, setup.recipe.rules)


def _combined(setup: Setup, last: Generation, wanted: str | None) -> tuple[str | None, Combiner | None]:
    """Fit ensembles of the survivors on the blend split; return the one that is wanted, with its name."""
    problem, names = setup.problem, last.survivors
    few = len(names) < 2 or not len(problem.splits.blend)
    if wanted is None or (wanted == RECOMMENDED and few):
        return None, None
    labels = problem.labels(problem.splits.blend)
    known = [] if few else methods_for(labels, len(problem.dataset.class_names), len(names))
    if wanted != RECOMMENDED and wanted not in known:
        raise ConfigError(
            f"ensemble: expected rows and a budget that suffice for {wanted!r}, got {len(problem.dataset.labels)} rows "
            f"that differ, and {len(names)} networks; take {RECOMMENDED!r}, or give more"
        )
    outputs = _outputs(setup, names)
    fits = {name: _fit_one(name, outputs, labels, setup.config.seed) for name in known if wanted in (RECOMMENDED, name)}
    method = min(fits, key=lambda name: fits[name].held_out_nll(labels))
    return method, fits[method].combiner


def _outputs(setup: Setup, names: Sequence[MemberId]) -> torch.Tensor:
    """Logits on the blend split, float32 [N, K, classes]."""
    members = [setup.population[name] for name in names]
    images = setup.problem.images(setup.problem.splits.blend)
    return setup.scorer.logits(members, images, calibrated=True).transpose(0, 1).contiguous()


def _fit_one(name: str, outputs: torch.Tensor, labels: torch.Tensor, seed: int) -> Any:
    method, calibrated = METHODS[name]
    generator = torch.Generator().manual_seed(seed)
    return fit_combiner(method, outputs, labels, generator=generator, calibrated=calibrated)
