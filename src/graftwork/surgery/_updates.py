"""Updates of a model as races, branches and families make them, what they cost, and held-out losses."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn, optim

from graftwork.errors import SurgeryError
from graftwork.surgery._calls import Call, Loss, loss_of, sandbox

Pair: TypeAlias = tuple[Call, Any]
"""The call of a batch, and its target."""
BACKWARD = 3
"""Forward passes that an update costs."""


def train(
    model: nn.Module,
    optimizers: Sequence[optim.Optimizer],
    pairs: Iterator[Pair],
    *,
    steps: int,
    loss: Loss,
    falling: float = 0.0,
) -> None:
    """Make updates, in the modes that the model is in.

    Args:
        model: The model; changed.
        optimizers: Its own; their rates end as the last update had them.
        pairs: What each update takes; at least ``steps`` of them.
        steps: Number of updates.
        loss: Loss of an output and a target.
        falling: Share of the updates, the last ones, in which rates fall to zero in a straight line; 0: they stay.
    """
    rates = [(group, group["lr"]) for own in optimizers for group in own.param_groups]
    for number in range(steps):
        factor = min(1.0, (steps - number) / (falling * steps)) if falling else 1.0
        for group, rate in rates:
            group["lr"] = rate * factor
        for own in optimizers:
            own.zero_grad()
        with torch.enable_grad():
            value = loss_of(model, *next(pairs), loss)
        value.backward()  # type: ignore[no-untyped-call]
        for own in optimizers:
            own.step()


def held_out_losses(model: nn.Module, pairs: Sequence[Pair], loss: Loss) -> Tensor:
    """Loss of each batch in evaluation mode, float64 [batches]; the model is left as it was."""
    with sandbox(model), torch.no_grad():
        model.eval()
        return torch.tensor([float(loss_of(model, *pair, loss)) for pair in pairs], dtype=torch.float64)


def update_flops(model: nn.Module, pair: Pair, loss: Loss) -> float:
    """FLOPs of an update: three times those of its forward pass.

    Raises:
        SurgeryError: If nothing of it can be counted.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes long to import

    with sandbox(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        loss_of(model, *pair, loss)
    flops = counter.get_total_flops()
    if not flops:
        raise SurgeryError(
            "model: expected matrix products or convolutions, whose FLOPs can be counted, got none in its forward"
        )
    return float(BACKWARD * flops)
