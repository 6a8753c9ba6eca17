"""The first update of new slots: at most ``lr``, whatever the optimizer's second moments hold."""

import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.utils.weak import WeakTensorKeyDictionary

from graftwork.errors import SurgeryError
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.carry._growth import ParameterGrowth

SECOND_MOMENTS = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "exp_avg_var"}
"""Keys of optimizer state that hold means of squared gradients."""
_unsettled: Any = weakref.WeakKeyDictionary()  # optimizer → parameter → mask of slots that have not moved yet


def inner_optimizer(optimizer: Any) -> Any:
    """Accelerate's and Lightning's wrappers are called like optimizers and hold the one that has the state.

    Raises:
        SurgeryError: A wrapper keeps state of its own (Lookahead).
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), optim.Optimizer):
        own = getattr(optimizer, "state", inner.state)
        if own is not inner.state and not isinstance(optimizer, type(inner)):  # Lightning's takes its class, too
            raise SurgeryError(
                f"optimizer {type(optimizer).__name__} can't be carried through a growth: it keeps state of its own "
                f"beside that of the {type(inner).__name__} in it; make a new optimizer after the growth"
            )
        optimizer = inner
    return optimizer


def waiting_slots(optimizer: optim.Optimizer, parameter: nn.Parameter) -> Tensor | None:
    """Return the mask of a parameter's slots that have not moved yet, None where all have."""
    return _unsettled.get(optimizer, {}).get(parameter)  # type: ignore[no-any-return]


def limit_first_update(
    transaction: Transaction, optimizer: optim.Optimizer, slots: Mapping[nn.Parameter, Tensor]
) -> None:
    """Before the next step, raise new slots' second moments: their first update is at most ``lr``.

    A parameter all of whose slots are new takes its own first gradient's mean square instead of what stands there:
    another tensor's would hold it back for as long as the optimizer remembers, or let it run.

    Args:
        transaction: Notes how to undo.
        optimizer: Has state for the parameters.
        slots: Parameter → mask of its shape, True where a slot is new.
    """
    masks: Any = _unsettled.setdefault(optimizer, WeakTensorKeyDictionary())
    for parameter, mask in slots.items():
        before = masks.get(parameter)
        transaction.step(
            "mask of new slots",
            partial(masks.__setitem__, parameter, mask),
            partial(_put_back, masks, parameter, before),
        )
    handles: list[Any] = []
    transaction.step(
        "hook of the first step",
        lambda: handles.append(optimizer.register_step_pre_hook(_first_step)),
        lambda: [handle.remove() for handle in handles],
    )


def forget_slots(
    transaction: Transaction, optimizer: optim.Optimizer, parameter: nn.Parameter, growth: ParameterGrowth
) -> None:
    """Wait no longer for new slots that are gone again; slots of a growth before go on waiting."""
    before = waiting_slots(optimizer, parameter)
    if before is None:
        return
    masks = _unsettled[optimizer]
    kept = growth.old_part(before) if before.shape == tuple(layout.new_size for layout in growth.layouts) else before
    transaction.step(
        "mask of new slots",
        partial(_put_back, masks, parameter, kept if bool(kept.any()) else None),
        partial(masks.__setitem__, parameter, before),
    )


def exchange_slots(
    optimizer: optim.Optimizer,
    old: nn.Parameter,
    new: nn.Parameter,
    convert: Callable[[Tensor, nn.Parameter, nn.Parameter], Tensor],
) -> None:
    """Go on waiting for a parameter that another one replaces."""
    masks = _unsettled.get(optimizer)
    if masks is not None and old in masks:
        masks[new] = convert(masks.pop(old), old, new)


def resume_optimizer(optimizer: optim.Optimizer) -> int:
    """Go on waiting for the first gradients of new parameters, after an optimizer's state was loaded.

    A checkpoint may be written between `deepen` and the first update that moves its block. What such a parameter waits
    for is no part of ``state_dict()``, but its state tells: the step count of others, no first moment, and second
    moments that are all the same. Without this call such a block starts faster than in an uninterrupted training; with
    it the bits are the same. `graftwork.integrations` calls it.

    Args:
        optimizer: Made for the grown model, its state loaded. Wrappers of frameworks are looked into.

    Returns:
        How many parameters wait.
    """
    optimizer = inner_optimizer(optimizer)
    slots = {
        parameter: torch.ones_like(parameter, dtype=torch.bool)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if waiting_slots(optimizer, parameter) is None and _waits(optimizer.state.get(parameter, {}))
    }
    if slots:
        limit_first_update(Transaction(), optimizer, slots)
    return len(slots)


def _waits(state: Mapping[str, Any]) -> bool:
    moments = [state[key] for key in SECOND_MOMENTS & set(state)]
    if not moments or float(state.get("step", 0)) == 0:
        return False
    still = not any(state[key].any() for key in ("exp_avg", "momentum_buffer", "grad_avg") if key in state)
    return still and all(bool(v.flatten()[0] > 0) and bool((v == v.flatten()[0]).all()) for v in moments)


def _put_back(masks: Any, parameter: nn.Parameter, mask: Tensor | None) -> None:
    if mask is None:
        masks.pop(parameter, None)
    else:
        masks[parameter] = mask


def _first_step(
    optimizer: optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Before a step; where a closure makes the gradients inside of it (Lightning's does), right after the closure."""
    if not _unsettled.get(optimizer):
        return None
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        _settle(optimizer)
        return None

    def settled() -> Any:
        loss = closure()
        _settle(optimizer)
        return loss

    if len(args) > 1:
        return (args[0], settled, *args[2:]), kwargs
    return args, {**kwargs, "closure": settled}


def _settle(optimizer: optim.Optimizer) -> None:
    masks = _unsettled[optimizer]
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None or parameter not in masks:
                continue
            # Behind a scale of zero a new tensor has no gradient yet: its first one is still to come.
            if masks[parameter].all() and not parameter.grad.any():
                continue
            _raise_second_moments(optimizer, parameter, masks.pop(parameter), group)


@torch.no_grad()
def _raise_second_moments(
    optimizer: optim.Optimizer, parameter: nn.Parameter, new: Tensor, group: dict[str, Any]
) -> None:
    """Make v ≥ the value with which the first update of a new slot, from a zero first moment, is at most lr.

    Adam after t steps: update = lr · (1−β₁)/(1−β₁ᵗ⁺¹) g / √(v̂), v̂ = (β₂v + (1−β₂)g²)/(1−β₂ᵗ⁺¹). With v ≥
    (1−β₂ᵗ)g², v̂ ≥ g². RMSprop has no such correction: v ≥ g² (a little more where the squared mean is
    subtracted). So it is for optimizers that are not known: v ≥ g² is enough for any of them.
    """
    state = optimizer.state.get(parameter)
    gradient = parameter.grad
    if not state or gradient is None or gradient.is_sparse:
        return
    if new.shape != parameter.shape:
        return
    squared = (
        gradient.square()
        if not _decays_by_gradient(optimizer, group)
        else (gradient + group["weight_decay"] * parameter).square()
    )
    if isinstance(optimizer, optim.RMSprop):
        alpha = group["alpha"]
        need = squared * ((alpha + (1 - alpha) ** 2) / alpha)
    elif isinstance(optimizer, (optim.Adam, optim.NAdam, optim.RAdam)):  # AdamW is an Adam
        step = float(state.get("step", 0))
        need = squared * (1.0 - group["betas"][1] ** step)
    else:
        need = squared
    whole = bool(new.all())
    for key in SECOND_MOMENTS & set(state):
        value = state[key]
        if value.shape != parameter.shape:  # one number for the whole tensor
            continue
        least = need.mean().to(value.dtype) if whole else value
        value.copy_(torch.where(new, torch.maximum(least, need.to(value.dtype)), value))


def _decays_by_gradient(optimizer: optim.Optimizer, group: dict[str, Any]) -> bool:
    decoupled = isinstance(optimizer, optim.AdamW) or group.get("decoupled_weight_decay", False)
    return bool(group.get("weight_decay", 0.0)) and not decoupled
