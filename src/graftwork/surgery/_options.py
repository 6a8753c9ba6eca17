"""The options that the functions of surgery share, written down once."""

from collections.abc import Sequence
from typing import TypeAlias, TypedDict

import torch
from torch import nn, optim

__all__ = ["DeepenOptions", "GrowthOptions", "Optimizers", "WidenOptions"]

Optimizers: TypeAlias = optim.Optimizer | Sequence[optim.Optimizer] | None


class GrowthOptions(TypedDict, total=False):
    """Keyword options of every growth, in width and in depth; all may be left out.

    Attributes:
        optimizer: Optimizer or optimizers whose state is carried; a new block joins the group that trains its
            neighbors, with their step count and moments that its first gradient sets. None, the default, leaves
            optimizers alone.
        generator: CPU generator of new weights. None, the default, derives one from the site and its width.
        check: True, the default, compares the outputs before and after, and rolls back on a change.
        scale: Standard deviation of new weights (of W in a new block). None, the default, matches the old ones.
    """

    optimizer: Optimizers
    generator: torch.Generator | None
    check: bool
    scale: float | None


class WidenOptions(GrowthOptions, total=False):
    """Keyword options of `plan_widen`, `widen`, `plan_widen_all` and `widen_all`, besides those of `GrowthOptions`.

    Attributes:
        method: ``"r2r"``, the default (new twins cancel), ``"net2net"`` (copies share their consumers' weights),
            ``"netmorph"`` (new channels are not heard yet) or ``"random-padding"`` (the control: changes the
            function).
        approximate: True also grows channels that a LayerNorm, an RMSNorm or a written-out mean or variance outside
            the pair runs over. New channels shift their statistics, so the function changes: the plan names the norms,
            the receipt the measured gap. ``net2net`` with ``factor=2`` copies every channel once, which keeps mean and
            variance. What is exact without it stays exact and checked. Needs ``check=True``. False is the default.
        mirrors: Modules of the same structure, such as a moving average, that grow along; none by default.
    """

    method: str
    approximate: bool
    mirrors: Sequence[nn.Module]


class DeepenOptions(GrowthOptions, total=False):
    """Keyword options of `plan_deepen` and `deepen`, besides those of `GrowthOptions`.

    Attributes:
        kernel_size: Odd size of the convolution, 3 by default.
        hidden: Hidden channels of both halves together, even. None, the default, takes the number of channels.
        norm: ``"batch"``, ``"instance"``, ``"group"``, ``"layer"``, ``"rms"`` or ``"none"``. None, the default, takes
            what the neighborhood of the module uses.
        activation: Class name in ``torch.nn``. None, the default, takes what the neighborhood uses.
        like: Path of a residual block of the model (a transformer block, a ResNet block). The new block is then a copy
            of it with fresh weights of the same scale that starts as the identity, instead of an R2R block; it gets
            the arguments of the module that it follows. The options of the R2R block, ``scale`` among them, don't
            apply. None, the default, makes an R2R block.
    """

    kernel_size: int
    hidden: int | None
    norm: str | None
    activation: str | None
    like: str | None
