"""What a forward may leave behind in a model: noted before, put back afterwards."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_CONTAINERS = (dict, list, set, deque)


class Snapshot:
    """Everything that a model holds and a forward can change, except its parameters, at any depth.

    Modules, dictionaries, lists, sets and deques are followed, and the user's own objects: those whose class comes from
    the package of the module that holds them (not a trainer or a data set of somebody else's). Tensors and arrays are
    copied. Containers keep their identity, and one that has not changed is not touched.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._containers: list[tuple[Any, Any]] = []
        self._tensors: list[tuple[Tensor, Tensor]] = []
        self._arrays: list[tuple[Any, Any]] = []
        self._slotted: list[tuple[Any, dict[str, Any]]] = []
        seen: set[int] = set()
        pending: list[tuple[Any, str]] = [(model, _package(model))]
        while pending:
            value, package = pending.pop()
            if id(value) not in seen:
                seen.add(id(value))
                if isinstance(value, nn.Module):
                    package = _package(value)
                pending += [(child, package) for child in self._note(value, package)]

    def _note(self, value: Any, package: str) -> Iterator[Any]:
        """Note one value and yield what it holds."""
        if isinstance(value, Tensor):
            if not isinstance(value, nn.Parameter) and value.layout == torch.strided and not value.is_meta:
                self._tensors.append((value, value.detach().clone()))
        elif type(value) is np.ndarray and value.flags.writeable:
            self._arrays.append((value, value.copy()))
        elif isinstance(value, _CONTAINERS):
            held = dict(value) if isinstance(value, dict) else list(value)
            self._containers.append((value, held))
            yield from held.values() if isinstance(held, dict) else held
        elif isinstance(value, tuple):
            yield from value
        own = isinstance(value, nn.Module) or _package(value) == package
        if own and isinstance(getattr(value, "__dict__", None), dict):  # a class has a read-only view instead
            yield vars(value)
        if own and (slots := {name: getattr(value, name) for name in _slots(value) if hasattr(value, name)}):
            self._slotted.append((value, slots))
            yield from slots.values()

    def restore(self) -> None:
        """Put everything back; an interruption on the way does not stop it."""
        try:
            self._restore()
        except BaseException:
            self._restore()
            raise

    def _restore(self) -> None:
        for value, held in self._containers:
            if not _same(value, held):
                _refill(value, held)
        with torch.no_grad():
            for tensor, old in self._tensors:
                if tensor.shape != old.shape or tensor.dtype != old.dtype:
                    tensor.data = old  # resized, or given other data
                elif not _equal(tensor, old):
                    tensor.copy_(old)
        for owner, slots in self._slotted:
            for name in _slots(owner):
                if name in slots:
                    setattr(owner, name, slots[name])
                elif hasattr(owner, name):
                    delattr(owner, name)
        for array, old_array in self._arrays:
            array[...] = old_array


def _package(value: Any) -> str:
    return str(getattr(type(value), "__module__", "")).partition(".")[0]


def _slots(value: Any) -> list[str]:
    """Names of the slots of an object that may be set."""
    kind = type(value)
    if getattr(kind, "__setattr__", None) is not object.__setattr__:
        return []  # frozen, or with rules of its own
    held = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    names = [name for own in held for name in ((own,) if isinstance(own, str) else own)]
    return [name for name in names if not name.startswith("__")]


def _same(value: Any, held: Any) -> bool:
    """Whether a container holds the same objects in the same order."""
    if len(value) != len(held):
        return False
    if isinstance(value, dict):
        now, before = [*value, *value.values()], [*held, *held.values()]
    else:
        now, before = list(value), held
    return all(one is other for one, other in zip(now, before, strict=True))


def _refill(value: Any, held: Any) -> None:
    """Give a container its old content by the methods of its base: a frozen subclass forbids its own."""
    if isinstance(value, dict):
        base: Any = OrderedDict if isinstance(value, OrderedDict) else dict
        base.clear(value)
        for key, one in held.items():
            base.__setitem__(value, key, one)
    elif isinstance(value, list):
        list.__setitem__(value, slice(None), held)
    elif isinstance(value, set):
        set.clear(value)
        set.update(value, held)
    else:
        deque.clear(value)
        deque.extend(value, held)


def _equal(first: Tensor, second: Tensor) -> bool:
    return bool(((first == second) | ((first != first) & (second != second))).all())  # noqa: PLR0124 - NaN
