"""The list of layers that grows: its entries, their keys, and where new ones go."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._transaction import Transaction


@dataclass(frozen=True)
class Stack:
    """A ``ModuleList`` or ``Sequential`` of a model, and how it grows.

    A worked example: four entries, new ones after 1 and 3::

        before   0  1     2  3          places = (1, 3)
        after    0  1  2  3  4  5       old = (0, 1, 3, 4), new = (2, 5)

    Attributes:
        path: Path of the container.
        module: The container.
        places: Old position after which each new entry goes, in order.
        own: Names and entries before the growth.
    """

    path: str
    module: nn.Module
    places: tuple[int, ...]
    own: tuple[tuple[str, nn.Module], ...]

    @property
    def length(self) -> int:
        """Number of entries before."""
        return len(self.own)

    @property
    def entries(self) -> tuple[nn.Module, ...]:
        """The entries before the growth."""
        return tuple(module for _, module in self.own)

    @property
    def old(self) -> tuple[int, ...]:
        """Position after the growth of every old entry."""
        return tuple(i + sum(place < i for place in self.places) for i in range(self.length))

    @property
    def new(self) -> tuple[int, ...]:
        """Position after the growth of every new entry."""
        return tuple(place + 1 + number for number, place in enumerate(self.places))

    @property
    def grown_keys(self) -> list[str]:
        """Names of all entries after the growth."""
        return self.keys(self.length + len(self.new))

    @property
    def renames(self) -> dict[str, str]:
        """Name of each old entry before → after."""
        keys = self.grown_keys
        return {key: keys[place] for (key, _), place in zip(self.own, self.old, strict=True)}

    def at(self, key: str) -> str:
        """Return the path of an entry."""
        return f"{self.path}.{key}" if self.path else key

    def holds(self, path: str) -> bool:
        """Whether a path lies inside of the stack."""
        return not self.path or path.startswith(f"{self.path}.")

    def on(self, model: nn.Module) -> "Stack":
        """Return the same growth of another model of this structure."""
        module = model.get_submodule(self.path)
        return Stack(self.path, module, self.places, _held(module))

    def keys(self, length: int) -> list[str]:
        """Return the names of the first entries: the container's own, carried on.

        Raises:
            SurgeryError: The names don't count.
        """
        own = [key for key, _ in self.own]
        numbers = [re.fullmatch(r"(\D*)(\d+)(\D*)", key) for key in own]
        first = numbers[0]
        if first is not None and all(
            n is not None and (n[1], n[3]) == (first[1], first[3]) and int(n[2]) == int(first[2]) + i
            for i, n in enumerate(numbers)
        ):
            return [f"{first[1]}{int(first[2]) + i}{first[3]}" for i in range(length)]
        raise SurgeryError(
            f"stack: expected a list whose entries are named by their numbers, got {own[:6]} in {self.path!r}; rename "
            "them, or hold them in a ModuleList"
        )

    def renamed(self, name: str) -> str:
        """Return the name that a tensor or module of an old entry will have."""
        if not self.holds(name):
            return name
        key, dot, rest = name.removeprefix(self.at("")).partition(".")
        return f"{self.at(self.renames.get(key, key))}{dot}{rest}"

    def insert(self, transaction: Transaction, layers: list[nn.Module]) -> None:
        """Put new entries in their places."""
        held = self.module._modules  # noqa: SLF001 - the order of entries is theirs
        before = dict(held)
        placed = {**dict(zip(self.old, self.entries, strict=True)), **dict(zip(self.new, layers, strict=True))}
        after = {key: placed[position] for position, key in enumerate(self.grown_keys)}
        transaction.step(f"entries of {self.path}", partial(_fill, held, after), partial(_fill, held, before))


def _held(module: nn.Module) -> tuple[tuple[str, nn.Module], ...]:
    # children() would leave out a module that stands several times
    return tuple((key, entry) for key, entry in module._modules.items() if entry is not None)  # noqa: SLF001


def _fill(held: dict[str, nn.Module | None], content: Mapping[str, nn.Module | None]) -> None:
    held.clear()
    held.update(content)


def find_stack(
    model: nn.Module,
    path: str,
    after: tuple[int, ...] | None,
    *,
    every: int | None = None,
    count: int | None = None,
) -> Stack:
    """Return the stack at a path, with the places of its new entries.

    Args:
        model: The model.
        path: Path of a ``ModuleList`` or ``Sequential``.
        after: Positions after which a new entry goes; negative ones count from the end.
        every: Or one after every so many entries.
        count: Or so many, spread evenly.

    Raises:
        SurgeryError: There is no such list, or no such place in it.
    """
    modules = dict(model.named_modules())
    module = modules.get(path)
    if not isinstance(module, (nn.ModuleList, nn.Sequential)) or not len(module):
        known = [name for name, one in modules.items() if isinstance(one, (nn.ModuleList, nn.Sequential)) and len(one)]
        got = f"{path!r}, which the model has not" if module is None else f"{path!r}, a {type(module).__name__}"
        raise SurgeryError(
            f"stack: expected the path of a ModuleList or Sequential, got {got}; pick one of {known[:8]}"
        )
    own = _held(module)
    return Stack(path, module, places(len(own), after, every=every, count=count, path=path), own)


def places(
    length: int, after: tuple[int, ...] | None, *, every: int | None = None, count: int | None = None, path: str = ""
) -> tuple[int, ...]:
    """Return after which entries new ones go.

    Raises:
        SurgeryError: A position lies outside of the list, or none is named.
    """
    if count is not None:
        return tuple((number + 1) * length // count - 1 if count <= length else number * length // count
                     for number in range(count))  # fmt: skip
    if every is not None:
        after = tuple(range(every - 1, length, every))
        if not after:
            raise SurgeryError(f"every: expected at most {length}, the entries of {path!r}, got {every}")
    for position in after or ():
        if not -length <= position < length:
            raise SurgeryError(f"after: expected positions from {-length} to {length - 1} in {path!r}, got {position}")
    return tuple(sorted(position % length for position in after or ()))
