"""A finished model out of a training that goes on: a copy whose rates fall to zero."""

from torch import nn

from graftwork.errors import ConfigError
from graftwork.surgery._calls import Batches, Loss, call_of, sandbox
from graftwork.surgery._fork import fork
from graftwork.surgery._grow import Optimizers, given_optimizers
from graftwork.surgery._updates import train


def decay_branch(model: nn.Module, *, batches: Batches, loss: Loss, optimizer: Optimizers, steps: int) -> nn.Module:
    """Finish a copy of a model in training: its rates fall to zero, in a straight line, over a number of updates.

    The training itself goes on as if nothing had been: model, optimizers and random state stay as they were. A rate
    that stays and a fall at the end reach what a schedule made for that length does (Hägele et al. 2024, arXiv
    2405.18392); there, a fifth of all updates was enough.

    Args:
        model: Any eager ``nn.Module`` in training, grown or not.
        batches: Pairs of inputs and targets, at least ``steps`` of them; best those that the training takes next.
        loss: Function of the model's output and the target; returns a scalar.
        optimizer: The model's optimizers, whose state and present rates the copy begins with.
        steps: Updates of the copy.

    Returns:
        The copy, in the modes of the model; `save_model` takes it.

    Raises:
        SurgeryError: The model can't be copied, or an optimizer can't.
        ConfigError: There are too few batches or updates, or no optimizer.
    """
    given = given_optimizers(optimizer)
    if not given:
        raise ConfigError("optimizer: expected what trains the model, got none; give its optimizers")
    if steps < 1:
        raise ConfigError(f"steps: expected a number of updates above 0, got {steps}")
    pairs = ((call_of(inputs), target) for inputs, target in batches)
    with sandbox(model):
        copy, own, _ = fork(model, given)
        try:
            train(copy, own, pairs, steps=steps, loss=loss, falling=1.0)
        except StopIteration:
            raise ConfigError(f"batches: expected {steps} pairs, one for each update, got fewer; give more") from None
    for one in own:
        one.zero_grad()
    return copy
