"""The poster's base network, half as wide or one layer shorter, and how it grows to its full size by surgery."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experiments.growing._families import problem_of, scramble
from experiments.growing._grid import Setting
from experiments.growing._learner import seeded
from experiments.growing._models import PosterNet
from experiments.growing._tasks import ImageTask, Task
from graftwork.surgery import R2RBlock, deepen, widen_all

BATCH_SIZE, LR = 64, 0.003
"""The paper's: Adam at 0.003, batches of 64, no augmentation."""


@dataclass(frozen=True)
class Change:
    """A growth to the base network.

    Args:
        start: Size to grow from, a key of `SIZES`.
        methods: Methods that can make the change.
        sizes: Sizes to train from scratch as controls.
    """

    start: str
    methods: tuple[str, ...]
    sizes: tuple[str, ...]


SIZES: Mapping[str, tuple[tuple[int, int, int], float]] = {
    "full": ((2, 2, 2), 1.0),
    "half": ((2, 2, 2), 0.5),
    "three-quarter": ((2, 2, 2), 0.75),
    "shorter": ((2, 2, 1), 1.0),
}
"""Size → layers in each stage, share of the filters."""

CHANGES: Mapping[str, Change] = {
    "widen": Change("half", ("r2r", "net2net", "netmorph", "random-padding"), ("full", "half", "three-quarter")),
    # Net2DeeperNet needs an activation that is idempotent at the end of a layer; the poster's layers end in a sum.
    "deepen": Change("shorter", ("r2r", "netmorph", "random-padding"), ("full", "shorter")),
}
"""By name."""


def build(setting: Setting, size: str, seed: int) -> nn.Module:
    """A fresh network of some size."""
    problem = problem_of(setting.data)
    layers, width = SIZES[size]
    classes = len(problem.dataset.class_names)
    return seeded(lambda: PosterNet(layers, width=width, input_shape=problem.input_shape, num_classes=classes), seed)


def task_of(setting: Setting, seed: int) -> Task:
    """The images, by the paper's recipe."""
    problem = problem_of(setting.data)
    return ImageTask.of(problem, seed=seed, batch_size=BATCH_SIZE, lr=LR, kind="adam", flips=False)


def grow(
    model: nn.Module,
    change: str,
    *,
    method: str,
    example: Tensor,
    optimizer: torch.optim.Optimizer | None,
    generator: torch.Generator,
) -> float:
    """Bring a small network to the full size.

    Args:
        model: Network of the size that the change starts from; grown in place.
        change: ``"widen"``: every layer gets twice the filters (`graftwork.widen_all`). ``"deepen"``: one more
            R2R layer at the end of the last stage (`graftwork.deepen`).
        method: One of the change's. For deepening, ``"netmorph"`` is a block whose mixing weights start at zero, and
            ``"random-padding"`` one whose halves do not cancel.
        example: A few rows of input.
        optimizer: Optimizer to carry; None: left alone.
        generator: Source of the new weights.

    Returns:
        The largest relative change of the outputs, 0 where the growth is not checked.
    """
    if change == "widen":
        return widen_all(
            model,
            2.0,
            only="*filter",
            method=method,
            example_input=example,
            optimizer=optimizer,
            generator=generator,
        ).largest_gap
    layers = model.get_submodule("layers")
    after = str(len(list(layers.children())) - 2)  # the last child is a pool
    hidden = layers.get_parameter(f"{after}.filter.weight").shape[0]
    receipt = deepen(
        model, f"layers.{after}", hidden=hidden, example_input=example, optimizer=optimizer, generator=generator
    )
    block = layers.get_submodule(f"{after}.graft0")
    if method == "random-padding":
        _untwin(block, generator)
    elif method == "netmorph":
        nn.init.zeros_(block.mix)  # type: ignore[arg-type]
    return receipt.largest_gap


def _untwin(block: nn.Module, generator: torch.Generator) -> None:
    """New weights of the same scale for both halves of a twin block."""
    assert isinstance(block, R2RBlock)
    scramble(block, block, generator=generator)
    nn.init.ones_(block.norm.weight)  # type: ignore[arg-type]
