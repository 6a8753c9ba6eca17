"""Take an optimizer back to what it was before a growth: new slots and new parameters leave it."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn, optim

from graftwork.errors import SurgeryError
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.carry._by_shape import reduced_dim
from graftwork.surgery.carry._first_update import forget_slots
from graftwork.surgery.carry._growth import ParameterGrowth


def carry_back(
    transaction: Transaction,
    optimizers: Sequence[optim.Optimizer],
    shrunk: Iterable[tuple[str, nn.Parameter, ParameterGrowth]],
) -> list[str]:
    """Leave only the old slots in the state of parameters that have shrunk again.

    Args:
        transaction: Notes how to undo.
        optimizers: Optimizers to carry.
        shrunk: Name, parameter and the growth that was taken back.

    Returns:
        One line for every state tensor that shrank.

    Raises:
        SurgeryError: A state tensor has another shape than the grown parameter had.
    """
    lines = []
    for name, parameter, growth in shrunk:
        for optimizer in optimizers:
            if parameter not in optimizer.state:
                continue
            old = optimizer.state[parameter]
            new = {key: _old_part(name, key, value, growth) for key, value in old.items()}
            put = partial(optimizer.state.__setitem__, parameter)
            transaction.step(f"optimizer state of {name}", partial(put, new), partial(put, old))
            forget_slots(transaction, optimizer, parameter, growth)
            lines += [f"{name}: {key}" for key, value in new.items() if isinstance(value, Tensor) and value.dim()]
    return lines


def _old_part(name: str, key: str, value: Any, growth: ParameterGrowth) -> Any:
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    sizes = tuple(layout.new_size for layout in growth.layouts)
    if tuple(value.shape) == sizes:
        return growth.old_part(value).clone()
    kept = tuple(1 if own == 1 else layout.new_size for own, layout in zip(value.shape, growth.layouts, strict=False))
    if len(value.shape) == len(sizes) and tuple(value.shape) == kept:  # means over a dimension, which stays as one
        return growth.old_part(value, over=[dim for dim, own in enumerate(value.shape) if own == 1]).clone()
    if (without := reduced_dim(key, value, sizes)) is not None:
        return growth.old_part(value, without=without).clone()
    raise SurgeryError(
        f"optimizer state {key!r} of {name!r}: expected the grown parameter's shape {sizes}, got {tuple(value.shape)}; "
        "make a new optimizer after the removal"
    )


def release(
    transaction: Transaction,
    optimizers: Sequence[optim.Optimizer],
    gone: Sequence[nn.Parameter],
    renamed: Callable[[str], str] = str,
) -> None:
    """Take parameters out of their groups, with their state.

    Args:
        transaction: Notes how to undo.
        optimizers: Optimizers that may hold them.
        gone: The parameters.
        renamed: Name of a parameter before the removal → after.
    """
    ids = {id(parameter) for parameter in gone}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            kept = [at for at, parameter in enumerate(group["params"]) if id(parameter) not in ids]
            for key in ("params", "param_names"):
                if key not in group:
                    continue
                old = list(group[key])
                new = [old[at] if key == "params" else renamed(old[at]) for at in kept]
                put = partial(group.__setitem__, key)
                transaction.step(f"parameter group: {key}", partial(put, new), partial(put, old))
        for parameter in gone:
            if parameter in optimizer.state:
                state = optimizer.state[parameter]
                transaction.step(
                    "optimizer state of a parameter that goes",
                    partial(optimizer.state.pop, parameter, None),
                    partial(optimizer.state.__setitem__, parameter, state),
                )
