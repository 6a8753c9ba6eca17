"""Carry an optimizer's state through a growth.

Old slots keep their bits. New slots start fresh: first moments and momentum at zero; second moments at the
mean of the old ones, raised just before the next ``optimizer.step()`` where the first gradient would
otherwise move a new slot by more than ``lr`` (an Adam that has run for long divides a new slot's first moment
by the root of an almost empty second moment, and would move it several times too far). Step counts are kept,
and the parameters of new blocks take their neighbors'.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn, optim

from graftwork.errors import SurgeryError
from graftwork.surgery._layout import same_units
from graftwork.surgery._tensors import place_old
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.carry._by_shape import by_shape, refuse_state
from graftwork.surgery.carry._first_update import SECOND_MOMENTS, limit_first_update, waiting_slots
from graftwork.surgery.carry._growth import OptimizerCarry, ParameterGrowth

_registry: dict[type[optim.Optimizer], OptimizerCarry] = {}


def register_optimizer_carry(kind: type[optim.Optimizer], carry: OptimizerCarry) -> None:
    """Teach surgery how an optimizer's state grows.

    Args:
        kind: The optimizer's class; subclasses inherit the rule unless they have their own.
        carry: Function of the state of one parameter (a dict as in ``optimizer.state[parameter]``), a
            `ParameterGrowth` and the parameter's group; returns the new state. Use ``growth.place`` for
            tensors of the parameter's shape.

    Example:
        >>> def carry(state, growth, group):
        ...     return {"momentum": growth.place(state["momentum"])}
        >>> register_optimizer_carry(MyOptimizer, carry)  # doctest: +SKIP
    """
    _registry[kind] = carry


def _elementwise(state: dict[str, Any], growth: ParameterGrowth, group: dict[str, Any]) -> dict[str, Any]:
    """State of tensors shaped like the parameter, and of numbers."""
    result = dict(state)
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            continue
        if tuple(value.shape) != growth.old_shape:
            raise SurgeryError(
                f"optimizer state {key!r}: expected the parameter's shape {growth.old_shape}, got "
                f"{tuple(value.shape)}; register how it grows with register_optimizer_carry"
            )
        fill = 0.0
        if key in SECOND_MOMENTS and value.numel():
            fill = float(value.double().mean())
        if key == "sum":
            fill = float(group.get("initial_accumulator_value", 0.0))
        result[key] = growth.place(value, fill=fill)
    return result


def _adafactor(state: dict[str, Any], growth: ParameterGrowth, group: dict[str, Any]) -> dict[str, Any]:
    """Keep Adafactor's means of squares over rows and columns; new ones start at their average.

    Its updates are clipped by the root mean square of the whole tensor, so old entries of a grown tensor may
    move by another amount than they would have: rows and columns share their statistics with the new ones.
    """
    result = dict(state)
    last = len(growth.layouts) - 1
    collapsed = {"row_var": last, "col_var": last - 1}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            continue
        layouts = list(growth.layouts)
        if key in collapsed:
            layouts[collapsed[key]] = same_units(1)
        result[key] = place_old(value, layouts, fill=float(value.double().mean()) if value.numel() else 0.0)
    return result


def _rprop(state: dict[str, Any], growth: ParameterGrowth, group: dict[str, Any]) -> dict[str, Any]:
    """Let new slots of Rprop start with the step size that its first step gives to all."""
    result = _elementwise(state, growth, group)
    if "step_size" in state:
        result["step_size"] = growth.place(state["step_size"], fill=float(group["lr"]))
    return result


def _asgd(state: dict[str, Any], growth: ParameterGrowth, group: dict[str, Any]) -> dict[str, Any]:
    """Let ASGD's averages of new weights start where the weights do."""
    result = _elementwise({key: value for key, value in state.items() if key != "ax"}, growth, group)
    if "ax" in state:
        fill = growth.parameter if growth.parameter is not None else 0.0
        result["ax"] = growth.place(state["ax"], fill=fill)
    return result


for _kind in (
    optim.SGD,
    optim.Adam,
    optim.AdamW,
    optim.NAdam,
    optim.RAdam,
    optim.Adagrad,
    optim.RMSprop,
    optim.Adamax,
    optim.Adadelta,
    optim.SparseAdam,
):
    register_optimizer_carry(_kind, _elementwise)
register_optimizer_carry(optim.Rprop, _rprop)
register_optimizer_carry(optim.ASGD, _asgd)
register_optimizer_carry(optim.Adafactor, _adafactor)
register_optimizer_carry(optim.Muon, _elementwise)


def _registered(optimizer: optim.Optimizer) -> OptimizerCarry | None:
    """The rule of an optimizer's class, None where it has none of its own."""
    return next((_registry[kind] for kind in type(optimizer).__mro__ if kind in _registry), None)


def check_optimizers(optimizers: Sequence[optim.Optimizer], model: nn.Module) -> None:
    """Refuse optimizers that can't be carried.

    Args:
        optimizers: The optimizers.
        model: The model that they train.

    Raises:
        SurgeryError: The optimizer is unknown, or trains none of the model's parameters.
    """
    own = {id(parameter) for parameter in model.parameters()}
    for optimizer in optimizers:
        if not isinstance(optimizer, optim.Optimizer):
            raise SurgeryError(
                f"optimizer: expected a torch.optim.Optimizer or a sequence of them, got {type(optimizer).__name__}; "
                "unwrap it first"
            )
        _refuse_kept_elsewhere(optimizer)
        if _registered(optimizer) is None:
            refuse_state(optimizer, {})
        if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            raise SurgeryError(
                f"optimizer: expected one that trains this model, got {type(optimizer).__name__} that holds no "
                "parameter of it; pass the model's own"
            )


def _refuse_kept_elsewhere(optimizer: optim.Optimizer) -> None:
    """Refuse an optimizer that keeps state which is no parameter's, or on another rank."""
    name, found = type(optimizer).__name__, None
    if "ZeroRedundancyOptimizer" in {kind.__name__ for kind in type(optimizer).__mro__}:
        found = "each rank keeps the state of its share of the parameters"
    for key, value in optimizer.state.items():
        if not isinstance(key, Tensor) and not isinstance(value, (bool, int, float, str)):
            found = f"its state {key!r} belongs to no parameter"
    if found:
        raise SurgeryError(
            f"optimizer {name} can't be carried through a growth: {found}; make a new optimizer after the growth"
        )


def carry_state(
    transaction: Transaction,
    optimizers: Sequence[optim.Optimizer],
    grown: Iterable[tuple[str, nn.Parameter, ParameterGrowth]],
) -> list[str]:
    """Grow the state of every grown parameter, in its place.

    Args:
        transaction: Notes how to undo.
        optimizers: Optimizers to carry.
        grown: Name, parameter and growth of every grown parameter.

    Returns:
        One line for every state tensor that grew.
    """
    lines: list[str] = []
    grown = list(grown)
    for optimizer in optimizers:
        carry = _registered(optimizer) or by_shape(optimizer, {parameter: growth for _, parameter, growth in grown})
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        seeded: list[tuple[nn.Parameter, ParameterGrowth]] = []
        for name, parameter, growth in grown:
            group = groups.get(id(parameter))
            if group is None or parameter not in optimizer.state:
                continue
            old = optimizer.state[parameter]
            new = carry(old, replace(growth, parameter=parameter.detach()), group)
            transaction.step(
                f"optimizer state of {name}",
                partial(optimizer.state.__setitem__, parameter, new),
                partial(optimizer.state.__setitem__, parameter, old),
            )
            lines += [f"{name}: {key}" for key, value in new.items() if isinstance(value, Tensor) and value.dim()]
            seeded.append((parameter, growth))
        if seeded and SECOND_MOMENTS & {key for p, _ in seeded for key in optimizer.state[p]}:
            limit_first_update(transaction, optimizer, {p: _new_slots(optimizer, p, growth) for p, growth in seeded})
    return lines


def _new_slots(optimizer: optim.Optimizer, parameter: nn.Parameter, growth: ParameterGrowth) -> Tensor:
    """Mask of the slots that have not moved yet: a second growth may come before the first step."""
    before = waiting_slots(optimizer, parameter)
    if before is not None and tuple(before.shape) == growth.old_shape:
        return growth.place(before, fill=1.0)
    return growth.new_slots(parameter.device)


def seed_state(
    transaction: Transaction, optimizer: optim.Optimizer, parameter: nn.Parameter, neighbor: nn.Parameter
) -> None:
    """Give a new parameter the state of one that has been there from the beginning and never had a gradient.

    With a step count of zero, Adam's first update moves every weight of a new block by the whole rate at once, in the
    direction of one gradient's signs: the loss jumps. With the neighbor's count and a first moment of zero, the
    first update is (1 − β₁) of that, and the full rate is reached within a few times 1 / (1 − β₁) updates. Second
    moments are the neighbor's mean until the first gradient comes (`limit_first_update`). Optimizers without
    moments of both kinds, and those with a rule of their own, start new parameters themselves.

    Args:
        transaction: Notes how to undo.
        optimizer: Trains both.
        parameter: The new one.
        neighbor: An old one.
    """
    state = optimizer.state.get(neighbor, {})
    adaptive = {*SECOND_MOMENTS, "exp_inf"} & set(state)
    if not adaptive or _registered(optimizer) is not _elementwise:
        return
    new: dict[str, Any] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            new[key] = value.clone() if isinstance(value, Tensor) else value
        elif value.shape == neighbor.shape:
            fill = float(value.double().mean()) if key in SECOND_MOMENTS else 0.0
            kind = parameter.dtype if value.dtype == neighbor.dtype else value.dtype
            new[key] = torch.full_like(parameter, fill, dtype=kind)
        else:
            return
    transaction.step(
        "optimizer state of a new parameter",
        partial(optimizer.state.__setitem__, parameter, new),
        partial(optimizer.state.pop, parameter, None),
    )
    limit_first_update(transaction, optimizer, {parameter: torch.ones_like(parameter, dtype=torch.bool)})
