"""Families of networks of growing depth: how each is built, taught and deepened by surgery."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from experiments.growing._grid import Setting
from experiments.growing._learner import seeded
from experiments.growing._models import ByteGPT, StageNet
from experiments.growing._tasks import ImageTask, Task, TextTask
from experiments.growing._text import Corpus, standard_library
from graftwork.numerics import matched_uniform, reference_scale
from graftwork.session import Problem, SearchConfig
from graftwork.surgery import deepen


class Family(Protocol):
    """Networks that differ in depth alone."""

    @property
    def name(self) -> str:
        """Name of the family."""

    @property
    def depths(self) -> tuple[int, ...]:
        """Depths to train from scratch; the last is the full one, the first the one to grow from."""

    @property
    def base_budget(self) -> float:
        """FLOPs of the smallest budget at scale 1."""

    def build(self, setting: Setting, depth: int, seed: int) -> nn.Module:
        """A fresh network."""

    def task(self, setting: Setting, seed: int) -> Task:
        """What it learns."""

    def places(self) -> Sequence[tuple[str, str]]:
        """Where one more block goes: the module that it follows, the block that it is like."""

    def describe(self, setting: Setting) -> dict[str, Any]:
        """The data, as plain data."""


@cache
def corpus() -> Corpus:
    """The standard library, read once a process."""
    return standard_library()


@cache
def problem_of(data: str, image_size: int | None = None) -> Problem:
    """A data set and its splits, loaded once a process; the splits are the same for all seeds."""
    options: dict[str, Any] = {"data": data, "recipe": "paper", "seed": 0}
    if image_size is not None:
        options["image_size"] = image_size
    return Problem.load(SearchConfig.from_dict(options))


@dataclass(frozen=True)
class GPTFamily:
    """`ByteGPT` on the sources of the standard library.

    Args:
        depths: Numbers of blocks.
        width: Width of the residual stream.
        num_heads: Number of heads; divides ``width``.
        context: Bytes in a window.
        batch_size: Windows in a batch.
        lr: Learning rate of AdamW.
        base_budget: FLOPs of the smallest budget at scale 1.
    """

    depths: tuple[int, ...] = (1, 2, 4, 8)
    width: int = 128
    num_heads: int = 4
    context: int = 128
    batch_size: int = 8
    lr: float = 2e-3
    base_budget: float = 1.6e12
    name: str = "gpt"

    def build(self, setting: Setting, depth: int, seed: int) -> nn.Module:
        """See `Family.build`."""
        return seeded(lambda: ByteGPT(depth, width=self.width, num_heads=self.num_heads, context=self.context), seed)

    def task(self, setting: Setting, seed: int) -> Task:
        """See `Family.task`."""
        return TextTask(corpus(), seed, self.context, self.batch_size, self.lr)

    def places(self) -> Sequence[tuple[str, str]]:
        """Behind the last block."""
        return [("blocks", "blocks.0")]

    def describe(self, setting: Setting) -> dict[str, Any]:
        """The corpus."""
        return corpus().describe()


@dataclass(frozen=True)
class ResNetFamily:
    """`StageNet` on images; all stages have as many blocks.

    Args:
        depths: Numbers of blocks in a stage.
        channels: Channels of each stage.
        batch_size: Images in a batch.
        lr: Learning rate of SGD.
        base_budget: FLOPs of the smallest budget at scale 1.
    """

    depths: tuple[int, ...] = (1, 2, 4)
    channels: tuple[int, ...] = (16, 32, 64)
    batch_size: int = 64
    lr: float = 0.05
    base_budget: float = 0.8e12
    name: str = "resnet"

    def build(self, setting: Setting, depth: int, seed: int) -> nn.Module:
        """See `Family.build`."""
        problem = problem_of(setting.data)
        channels, classes = problem.input_shape[0], len(problem.dataset.class_names)
        return seeded(lambda: StageNet(depth, channels=self.channels, in_channels=channels, num_classes=classes), seed)

    def task(self, setting: Setting, seed: int) -> Task:
        """See `Family.task`."""
        problem = problem_of(setting.data)
        return ImageTask.of(problem, seed=seed, batch_size=self.batch_size, lr=self.lr, kind="sgd", flips=True)

    def places(self) -> Sequence[tuple[str, str]]:
        """Behind the last block of each stage."""
        return [(f"stages.{i}", f"stages.{i}.0") for i in range(len(self.channels))]

    def describe(self, setting: Setting) -> dict[str, Any]:
        """The data set."""
        return problem_of(setting.data).describe()


FAMILIES: dict[str, Family] = {family.name: family for family in (GPTFamily(), ResNetFamily())}
"""By name."""


def deepen_to(
    model: nn.Module,
    extra: int,
    places: Sequence[tuple[str, str]],
    *,
    example: Tensor,
    optimizer: torch.optim.Optimizer | None,
    generator: torch.Generator,
    method: str = "r2r",
) -> float:
    """Graft further blocks onto each place, by `graftwork.deepen`.

    Args:
        model: Model to grow, in place.
        extra: Number of blocks to add at each place.
        places: See `Family.places`.
        example: A few rows of input.
        optimizer: Optimizer to carry; None: left alone.
        generator: Source of the new weights.
        method: ``"r2r"``, or ``"random-padding"``: the same blocks with weights that do not cancel (the control).

    Returns:
        The largest relative change of the outputs that the growth's own check saw.
    """
    gap = 0.0
    for after, like in places:
        for _ in range(extra):
            receipt = deepen(model, after, like=like, example_input=example, optimizer=optimizer, generator=generator)
            gap = max(gap, receipt.largest_gap)
            if method == "random-padding":
                name = str(list(model.get_submodule(after)._modules)[-1])  # noqa: SLF001 - the block just grafted
                scramble(model.get_submodule(f"{after}.{name}"), model.get_submodule(like), generator=generator)
    return gap


@torch.no_grad()
def scramble(block: nn.Module, like: nn.Module, *, generator: torch.Generator) -> None:
    """Fill a block with new weights of the scale of another's, of which nothing cancels, as if added by hand.

    Args:
        block: Block to fill, in place.
        like: A trained block of the same structure.
        generator: Source of randomness on the CPU.
    """
    trained = dict(like.named_parameters())
    for name, parameter in block.named_parameters():
        if parameter.dim() >= 2:
            std = reference_scale(trained[name])
            parameter.copy_(matched_uniform(parameter.shape, std=std, generator=generator, dtype=parameter.dtype))
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
