"""Copies of a stack's entries: real modules of their own, that share what the model shares."""

import copy
from collections.abc import Iterator
from typing import Any

from torch import nn

from graftwork.surgery._graft import ungraft

_KEPT_HOOKS = ("torch", "transformers")


def entry_copy(model: nn.Module, entry: nn.Module) -> nn.Module:
    """Copy an entry; what it shares with the rest of the model (a config, a table, a tied weight) stays shared.

    Blocks that were grafted onto it and hooks of the user are left out. The copy has no gradients.

    Args:
        model: The model that holds the entry.
        entry: The module to copy.
    """
    memo = {id(value): value for value in _outside(model, entry)}
    keep = list(memo.values())  # the memo knows objects by id: they must stay alive
    result = copy.deepcopy(entry, memo)
    del keep
    for name in reversed([name for name, _ in result.named_children() if name.startswith("graft")]):
        ungraft(result, name)
    own = {id(parameter) for parameter in result.parameters()} - {id(parameter) for parameter in model.parameters()}
    for module in result.modules():
        vars(module).pop("_graftwork_log", None)
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            hooks = getattr(module, kind)
            for key in [k for k, hook in hooks.items() if not _is_framework(hook)]:
                del hooks[key]
        for parameter in module.parameters(recurse=False):
            if id(parameter) in own:
                parameter.grad = None
    return result


def _is_framework(hook: Any) -> bool:
    where = getattr(hook, "__module__", None) or type(hook).__module__
    return where.partition(".")[0] in _KEPT_HOOKS


def _outside(model: nn.Module, entry: nn.Module) -> Iterator[Any]:
    """Everything that modules outside of the entry hold."""
    inside = {id(module) for module in entry.modules()}
    for module in model.modules():
        if id(module) in inside:
            continue
        yield module
        held = {**vars(module), **module._parameters, **module._buffers}  # noqa: SLF001
        yield from (value for value in held.values() if value is not None and id(value) not in inside)


def siblings(entry: nn.Module, names: set[str]) -> set[str]:
    """Return parameters, and those in like places of a ``ModuleList`` (other experts, which the example may not reach).

    Args:
        entry: An entry of the stack.
        names: Names in the entry.
    """
    found = set(names)
    parameters = dict(entry.named_parameters(remove_duplicate=False))
    for name in names:
        steps = name.split(".")
        for at in range(len(steps) - 1):
            holder = entry.get_submodule(".".join(steps[:at]))
            if not isinstance(holder, nn.ModuleList):
                continue
            for key, child in holder.named_children():
                like = ".".join([*steps[:at], key, *steps[at + 1 :]])
                if like in parameters and type(child) is type(holder.get_submodule(steps[at])):
                    found.add(like)
    return found


def shared_tensors(model: nn.Module, entry: nn.Module) -> set[str]:
    """Return the names in an entry of the tensors that other modules of the model hold too."""
    inside = {id(module) for module in entry.modules()}
    outside = {
        id(tensor)
        for module in model.modules()
        if id(module) not in inside
        for tensor in (*module._parameters.values(), *module._buffers.values())  # noqa: SLF001
    }
    tensors = [*entry.named_parameters(remove_duplicate=False), *entry.named_buffers(remove_duplicate=False)]
    return {name for name, tensor in tensors if id(tensor) in outside}
