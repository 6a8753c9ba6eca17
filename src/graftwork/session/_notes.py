"""What is said before training."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from graftwork.datasets import groups_of
from graftwork.evolution.strategies import outlook
from graftwork.session._config import SearchConfig
from graftwork.session._ensembles import METHODS, methods_for
from graftwork.session._setup import Setup


def plan_notes(setup: Setup, *, asked: SearchConfig) -> Iterator[str]:
    """Say what is doubtful about the data, and what was decided because of them, a sentence each.

    Args:
        setup: A search that has not begun.
        asked: The options as they were given.
    """
    problem, recipe = setup.problem, setup.recipe
    yield from (f"data: {warning}" for warning in problem.describe()["warnings"])
    yield from setup.notes
    if planned := outlook(setup.config.strategy, setup.seed_network, setup.plan.num_generations):
        yield f"{setup.config.strategy}: {planned}"
    if len(problem.splits.train) < recipe.few_images:
        yield (
            f"training: {len(problem.splits.train)} images are few (few_images), so shifts reach "
            f"{recipe.augmentation.shift} pixels, and weights decay by {recipe.rules['head'].weight_decay}"
        )
    if recipe.class_weights == "balanced" and asked.recipe.class_weights == "auto":
        yield "training: examples count in inverse proportion to the size of their class (class_weights)"
    if (generations := setup.plan.num_generations) < recipe.num_generations:
        left = f"only {generations} are made" if generations else "the seed network is trained alone"
        yield f"budget: {asked.budget} does not reach for {recipe.num_generations} generations: {left}"
    labels, classes = problem.labels(problem.splits.blend), len(problem.dataset.class_names)
    if not len(labels) or recipe.num_survivors < 2 or not generations:
        return
    groups = torch.from_numpy(groups_of(problem.dataset, problem.splits.blend))
    fit = methods_for(labels, classes, recipe.num_survivors, groups=groups)
    if missing := [name for name in METHODS if name not in fit]:
        yield (
            f"ensembles: {len(labels)} blend images of {classes} classes do not suffice for {', '.join(missing)}; "
            f"only {', '.join(fit)} will be made (--blend takes more images)"
        )


def resume_notes(then: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """Say what may change the bits of a run that continues: another machine, or another number of workers.

    Args:
        then: The run's ``provenance.json``.
        here: The same of this process.
    """
    for name in ("processor", "instruction_set"):
        if here["machine"][name] != then["machine"][name]:
            yield (
                f"{name} was {then['machine'][name]!r} and is {here['machine'][name]!r}: the run continues under the "
                "same plan, but its bits may differ from those of an uninterrupted run"
            )
    size, was = here["workers"]["size"], then.get("workers", {}).get("size", 1)
    if size != was:
        yield f"the run was made by {was} workers and continues with {size}: the same plan, but not the same bits"
