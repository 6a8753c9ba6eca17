"""How a block is hung onto a module's output without renaming anything."""

import inspect
import linecache
from types import FunctionType
from typing import Any

from torch import Tensor, nn


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


def _remake(base: type[nn.Module], names: tuple[str, ...] = ()) -> nn.Module:
    kind = graft_class(base, names)
    return kind.__new__(kind)


_classes: dict[tuple[type[nn.Module], tuple[str, ...]], type[nn.Module]] = {}


def graft_class(base: type[nn.Module], names: tuple[str, ...] = ()) -> type[nn.Module]:
    """Return a subclass whose forward passes its output through grafted blocks.

    Instances keep their identity, attributes, hooks and names of parameters; they can be pickled and copied.

    Args:
        base: Class of the module.
        names: The blocks, where the forward is to be one that ``torch.jit.script`` understands; it then names each.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _grafted_forward(self, base.forward(self, *args, **kwargs), args, kwargs)

    def reduce(self: Any, _protocol: Any) -> Any:
        return _remake, (base, names), self.__getstate__()

    members: dict[str, Any] = {
        "forward": forward,
        "__reduce_ex__": reduce,
        "__module__": base.__module__,
        "__doc__": base.__doc__,
        "grafted_from": base,
    }
    if names:
        members |= _scriptable_members(base, names)
    if (base, names) not in _classes:
        _classes[base, names] = type(f"Grafted{base.__name__}", (base,), members)
    return _classes[base, names]


def _takes_and_makes_one_tensor(base: type[nn.Module]) -> bool:
    """Whether the forward says so in its annotations, as those of PyTorch's own layers do."""
    if not isinstance(base.forward, FunctionType):
        return False
    signature = inspect.signature(base.forward)
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    made = signature.return_annotation in (Tensor, "Tensor", "torch.Tensor")
    return made and kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2


def _scriptable_members(base: type[nn.Module], names: tuple[str, ...]) -> dict[str, Any]:
    """A forward without ``*args``: TorchScript compiles methods from their source and finds blocks by literal names."""
    own: Any = base.forward
    x = list(inspect.signature(own).parameters)[1]
    value = f"self.forward_before_grafts({x})"
    for name in names:
        value = f"self.{name}({value})"
    source = f"def forward(self, {x}: Tensor) -> Tensor:\n    return {value}\n"
    file = f"<graftwork/surgery: {', '.join(names)} of {x}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    found: dict[str, Any] = {"Tensor": Tensor}
    exec(compile(source, file, "exec"), found)  # noqa: S102 - as dataclasses do
    before = FunctionType(own.__code__, own.__globals__, "forward_before_grafts", own.__defaults__, own.__closure__)
    before.__annotations__, before.__kwdefaults__ = own.__annotations__, own.__kwdefaults__
    return {"forward": found["forward"], "forward_before_grafts": before}


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
        module.graft_names = (*names, name)  # type: ignore[assignment]
        module.graft_like = (*getattr(module, "graft_like", ()), *([name] if like else []))  # type: ignore[assignment]
        _put_class(module)
    module.add_module(name, block)
    return name


def _put_class(module: Any) -> None:
    base = getattr(type(module), "grafted_from", type(module))
    scriptable = not module.graft_like and _takes_and_makes_one_tensor(base)
    module.__class__ = graft_class(base, module.graft_names if scriptable else ())


def ungraft(module: nn.Module, name: str) -> bool:
    """Undo `graft` for the last block."""
    if name in module._modules:  # noqa: SLF001
        del module._modules[name]  # noqa: SLF001
    names = tuple(n for n in getattr(module, "graft_names", ()) if n != name)
    if names:
        module.graft_names = names  # type: ignore[assignment]
        likes = tuple(n for n in vars(module)["graft_like"] if n != name)
        module.graft_like = likes  # type: ignore[assignment]
        _put_class(module)
    else:
        vars(module).pop("graft_names", None)
        vars(module).pop("graft_like", None)
        module.__class__ = getattr(type(module), "grafted_from", type(module))
    return True
