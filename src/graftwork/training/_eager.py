"""Optimizers that don't import torch's compiler."""

from functools import cache
from inspect import unwrap
from typing import Any, TypeVar, cast

import torch

T = TypeVar("T", bound=torch.optim.Optimizer)


def eager(kind: type[T]) -> type[T]:
    """Return a class of optimizers with the same steps, that is not made for `torch.compile`.

    torch wraps these methods so that its compiler leaves them alone. The wrappers import the compiler at their first
    call, which takes longer than all else that a search does before its first update.

    Args:
        kind: A class of optimizers, not ``differentiable``.
    """
    key: Any = kind  # to mypy a class is not always hashable
    return cast("type[T]", _eager(key))


@cache
def _eager(kind: type[torch.optim.Optimizer]) -> type:
    methods = {name: unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad")}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(unwrap(kind.step))})
