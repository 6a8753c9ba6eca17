"""Optimizers that don't import torch's compiler."""

from inspect import unwrap
from typing import TypeVar

import torch

T = TypeVar("T", bound=torch.optim.Optimizer)


def eager(kind: type[T]) -> type[T]:
    """Return a class of optimizers with the same steps, that is not made for `torch.compile`.

    torch wraps these methods so that its compiler leaves them alone. The wrappers import the compiler at their first
    call, which takes longer than all else that a search does before its first update.

    Args:
        kind: A class of optimizers, not ``differentiable``.
    """
    methods = {name: unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad")}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(unwrap(kind.step))})
