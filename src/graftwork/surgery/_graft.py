"""How a block is hung onto a module's output without renaming anything."""

import inspect
from typing import Any

from torch import nn


def _grafted_forward(module: Any, output: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    for name in module.graft_names:
        block = module.get_submodule(name)
        first = output[0] if isinstance(output, (tuple, list)) else output
        if name in module.graft_like:
            result = _call_like(block, first, args, kwargs)
        else:
            result = block(first)
        if isinstance(output, (tuple, list)):
            head = result[0] if isinstance(result, (tuple, list)) else result
            output = type(output)((head, *output[1:]))
        else:
            output = result
    return output


def _call_like(block: nn.Module, first: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a copy of the module with the module's own arguments (masks), the first one replaced."""
    if args:
        return block(first, *args[1:], **kwargs)
    names = inspect.signature(type(block).forward).parameters
    name = next((name for name in names if name in kwargs), "input")
    return block(**{**kwargs, name: first})


def _remake(base: type[nn.Module]) -> nn.Module:
    kind = graft_class(base)
    return kind.__new__(kind)


_classes: dict[type[nn.Module], type[nn.Module]] = {}


def graft_class(base: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass whose forward passes its output through grafted blocks.

    Instances keep their identity, attributes, hooks and names of parameters; they can be pickled and copied.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _grafted_forward(self, base.forward(self, *args, **kwargs), args, kwargs)

    def reduce(self: Any, _protocol: Any) -> Any:
        return _remake, (base,), self.__getstate__()

    members = {
        "forward": forward,
        "__reduce_ex__": reduce,
        "__module__": base.__module__,
        "__doc__": base.__doc__,
    }
    if base not in _classes:
        _classes[base] = type(f"Grafted{base.__name__}", (base,), {**members, "grafted_from": base})
    return _classes[base]


def grafts_of(module: nn.Module) -> list[str]:
    """Return the names of the blocks that hang on a module."""
    return [name for name in module._modules if name.startswith("graft")]  # noqa: SLF001


def graft(module: nn.Module, block: nn.Module, *, like: bool = False) -> str:
    """Hang a block onto a module's output; returns the block's name among its children.

    A plain ``nn.Sequential`` gets it as its last child; any other module gets a subclass that calls it.

    Args:
        module: Module to hang it onto, changed in place.
        block: The block.
        like: Whether the block takes the module's own further arguments.
    """
    names: tuple[str, ...] = getattr(module, "graft_names", ())
    name = f"graft{len(grafts_of(module))}"
    if type(module).forward is not nn.Sequential.forward:
        if not hasattr(type(module), "grafted_from"):
            module.__class__ = graft_class(type(module))
        module.graft_names = (*names, name)  # type: ignore[assignment]
        module.graft_like = (*getattr(module, "graft_like", ()), *([name] if like else []))  # type: ignore[assignment]
    module.add_module(name, block)
    return name


def ungraft(module: nn.Module, name: str) -> bool:
    """Undo `graft` for the last block."""
    if name in module._modules:  # noqa: SLF001
        del module._modules[name]  # noqa: SLF001
    names = tuple(n for n in getattr(module, "graft_names", ()) if n != name)
    if hasattr(type(module), "grafted_from"):
        if names:
            module.graft_names = names  # type: ignore[assignment]
            likes = tuple(n for n in vars(module)["graft_like"] if n != name)
            module.graft_like = likes  # type: ignore[assignment]
        else:
            vars(module).pop("graft_names", None)
            vars(module).pop("graft_like", None)
            module.__class__ = type(module).grafted_from  # type: ignore[attr-defined]
    return True
