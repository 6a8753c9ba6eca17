"""Give an optimizer other parameter objects in place of its own: the same numbers, held in another way."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from torch import Tensor, nn, optim

from graftwork.surgery.carry._first_update import exchange_slots

Convert: TypeAlias = Callable[[Tensor, nn.Parameter, nn.Parameter], Tensor]
"""``(a tensor that is kept for a parameter, the old parameter, the new one) → the tensor to keep``."""


def exchange(
    optimizers: Sequence[optim.Optimizer], parameters: Mapping[nn.Parameter, nn.Parameter], convert: Convert
) -> None:
    """Put new parameters in the places of old ones, with all that an optimizer keeps for them.

    Args:
        optimizers: Changed in place.
        parameters: Old parameter → new one.
        convert: Makes what is kept for the new one.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"] = [parameters.get(parameter, parameter) for parameter in group["params"]]
        for old, new in parameters.items():
            if old in optimizer.state:
                kept = optimizer.state.pop(old)
                optimizer.state[new] = {
                    key: convert(value, old, new) if isinstance(value, Tensor) else value for key, value in kept.items()
                }
            exchange_slots(optimizer, old, new, convert)
