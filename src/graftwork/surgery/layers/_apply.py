"""The small changes that go with new layers: numbers, configs, parameter groups, what trains."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn, optim

from graftwork.surgery._attributes import AttributeChange
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.carry import adopt
from graftwork.surgery.layers._reference import changed_config


def set_numbers(transaction: Transaction, model: nn.Module, changes: Sequence[AttributeChange]) -> None:
    """Set numbers of modules, by paths after the growth."""
    for change in changes:
        owner = model.get_submodule(change.path)
        old = getattr(owner, change.name)
        new = tuple(change.new) if isinstance(old, tuple) else change.new  # JSON has lists only
        put = partial(setattr, owner, change.name)
        transaction.step(f"attribute {change.path}.{change.name}", partial(put, new), partial(put, old))


def replace_configs(transaction: Transaction, model: nn.Module, changes: Sequence[AttributeChange]) -> None:
    """Give a model, and every layer that holds it, a copy of a config with other values.

    The config itself stays as it is: whoever built the model may build another one from it.
    """
    for path in dict.fromkeys(change.path for change in changes):
        owner, _, name = path.rpartition(".")
        config = getattr(model.get_submodule(owner), name)
        values = {change.name: _like(config, change) for change in changes if change.path == path}
        copies: dict[int, Any] = {}
        changed_config(config, values, copies)
        for module in model.modules():
            for key, held in list(vars(module).items()):
                if id(held) in copies and held is not copies[id(held)] and _is_holder(held):
                    put = partial(vars(module).__setitem__, key)
                    transaction.step(f"config of {path}", partial(put, copies[id(held)]), partial(put, held))


def _is_holder(value: Any) -> bool:
    return isinstance(value, dict) or (hasattr(value, "__dict__") and not isinstance(value, (nn.Module, type)))


def _like(config: Any, change: AttributeChange) -> Any:
    old = config
    for step in change.name.split("."):
        old = old.get(step) if isinstance(old, dict) else getattr(old, step, None)
    return tuple(change.new) if isinstance(old, tuple) else copy.copy(change.new)


def join_groups(
    transaction: Transaction,
    optimizers: Sequence[optim.Optimizer],
    model: nn.Module,
    pairs: Sequence[tuple[nn.Parameter, nn.Parameter]],
    renamed: Callable[[str], str],
) -> None:
    """Let new parameters join the groups of the ones that they copy, with fresh state.

    Args:
        transaction: Notes how to undo.
        optimizers: Optimizers of the model.
        model: The grown model.
        pairs: New parameters and their originals.
        renamed: Name of a parameter before the growth → after.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if "param_names" in group:
                old = list(group["param_names"])
                put = partial(group.__setitem__, "param_names")
                transaction.step("names in a group", partial(put, [renamed(n) for n in old]), partial(put, old))
    for new, original in pairs:
        adopt(transaction, optimizers, model, nn.ParameterList([original]), nn.ParameterList([new]))


def freeze(transaction: Transaction, model: nn.Module, new: Sequence[nn.Parameter]) -> None:
    """Let only some parameters of a model train."""
    wanted = {id(parameter) for parameter in new}
    for parameter in model.parameters():
        flag, gradient = parameter.requires_grad, parameter.grad
        train = id(parameter) in wanted
        if flag != train or (gradient is not None and not train):
            transaction.step(
                "what trains", partial(_set, parameter, train, None), partial(_set, parameter, flag, gradient)
            )


def _set(parameter: nn.Parameter, flag: bool, gradient: Any) -> None:
    parameter.requires_grad_(flag)
    parameter.grad = gradient
