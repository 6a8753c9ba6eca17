"""Numbers that layers keep of their own place, and that models keep of how many layers there are.

No list of names says which these are: a whole number of an entry is one of its place if over all entries it is a
straight line of the position (``layer_idx``, ``2 * i + 1``); a text, if it holds such a number. Where a model is built
from a config alone, `_reference` knows better and this is not asked.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._attributes import AttributeChange
from graftwork.surgery._calls import Call, sandbox
from graftwork.surgery.layers._stack import Stack

COUNTS = re.compile(r"(layers?|blocks?|depths?)$", re.IGNORECASE)
_LISTS = re.compile(r"layer|block|depth", re.IGNORECASE)
_PLACES = re.compile(r"layer|block|depth|idx|index", re.IGNORECASE)
PLAIN = (int, float, bool, str, type(None))


def place_numbers(model: nn.Module, stack: Stack, sources: Sequence[int], call: Call) -> list[AttributeChange]:
    """Return the numbers of places that change, by paths after the growth.

    Args:
        model: The model, before.
        stack: What grows.
        sources: Old position of the entry that each new one copies.
        call: The example, to see which numbers the forward reads.

    Raises:
        SurgeryError: The forward reads a number that differs from entry to entry by no rule that can be continued.
    """
    keys = stack.grown_keys
    places = [*zip(range(stack.length), stack.old, strict=True), *zip(sources, stack.new, strict=True)]
    changes: list[AttributeChange] = []
    unclear: list[tuple[str, str]] = []
    for path, name in _candidates(stack):
        held = {i: _get(entry, path, name) for i, entry in enumerate(stack.entries)}
        values = {i: value for i, value in held.items() if value is not None}
        rule = _rule(values, name)
        if rule is None:
            if _by_place(values):
                unclear.append((path, name))
            continue
        for source, place in places:
            if source in values and (new := rule(place)) != values[source]:
                where = f"{stack.at(keys[place])}.{path}".rstrip(".")
                changes.append(AttributeChange(where, name, values[source], new))
    read = _read(model, stack, unclear, call) if unclear else set()
    for path, name in unclear:
        if (path, name) in read:
            found = [_get(entry, path, name) for entry in stack.entries][:6]
            raise SurgeryError(
                f"{stack.path!r} can't get new entries: the forward reads {f'{path}.{name}'.lstrip('.')!r}, "
                f"which differs from entry to entry ({found}), and no rule says what a new one would hold; "
                "let the forward not depend on it, or number the entries by their positions"
            )
    return changes


def _candidates(stack: Stack) -> Iterator[tuple[str, str]]:
    """Whole numbers and texts of the user's own modules in the first entry that holds them."""
    seen: dict[tuple[str, str], None] = {}
    for entry in stack.entries:
        for path, module in entry.named_modules():
            if type(module).__module__.startswith("torch.nn"):
                continue  # sizes
            for name, value in vars(module).items():
                if type(value) in {int, str} and name != "training":
                    seen.setdefault((path, name))
    yield from seen


def _get(entry: nn.Module, path: str, name: str) -> Any:
    module: Any = entry
    for step in path.split(".") if path else ():
        module = getattr(module, step, None)
    value = vars(module).get(name) if isinstance(module, nn.Module) else None
    return value if type(value) in {int, str} else None


def _rule(values: dict[int, Any], name: str) -> Any:
    """A function of the position that gives all values, None where there is none or it gives one value for all."""
    if all(type(value) is int for value in values.values()):
        return _line(values, name)
    if not all(type(value) is str for value in values.values()):
        return None
    pieces = {i: re.split(r"(\d+)", value) for i, value in values.items()}
    first = next(iter(pieces.values()))
    if len({tuple(p[::2]) for p in pieces.values()}) > 1:
        return None
    lines: dict[int, Any] = {}
    for at in range(1, len(first), 2):
        numbers = {i: int(p[at]) for i, p in pieces.items()}
        line = _line(numbers, name)
        if line is None and len(set(numbers.values())) > 1:
            return None
        lines[at] = line
    if not any(lines.values()):
        return None
    return lambda place: "".join(str(lines[i](place)) if lines.get(i) else piece for i, piece in enumerate(first))


def _line(values: dict[int, int], name: str) -> Any:
    places = list(values)
    if len(places) == 1:
        # One entry shows no line; its own place is zero in every numbering that we know.
        return (lambda place: place) if values[places[0]] == 0 == places[0] and _PLACES.search(name) else None
    step, rest = divmod(values[places[1]] - values[places[0]], places[1] - places[0])
    if rest or not step or any(values[i] != values[places[0]] + step * (i - places[0]) for i in places):
        return None
    return lambda place: values[places[0]] + step * (place - places[0])


def _by_place(values: dict[int, Any]) -> bool:
    """Whether no two entries hold the same: then it may be a name of the place, rather than a kind of layer."""
    return len(values) > 2 and len(set(values.values())) == len(values)


def _read(model: nn.Module, stack: Stack, names: Sequence[tuple[str, str]], call: Call) -> set[tuple[str, str]]:
    """Which attributes of the entries the forward reads."""
    found: set[tuple[str, str]] = set()
    watched: dict[int, dict[str, tuple[str, str]]] = {}
    modules: dict[int, nn.Module] = {}
    for entry in stack.entries:
        for path, name in names:
            if _get(entry, path, name) is not None:
                module = entry.get_submodule(path)
                modules[id(module)] = module
                watched.setdefault(id(module), {})[name] = (path, name)
    with sandbox(model):
        model.eval()
        with _watching(modules, watched, found):
            call.run(model)
    return found


@contextmanager
def _watching(
    modules: dict[int, nn.Module], watched: dict[int, dict[str, tuple[str, str]]], found: set[tuple[str, str]]
) -> Iterator[None]:
    kinds = {key: type(module) for key, module in modules.items()}

    def spy(kind: type[nn.Module]) -> type[nn.Module]:
        def read(self: Any, name: str) -> Any:
            if name in watched.get(id(self), {}):
                found.add(watched[id(self)][name])
            return kind.__getattribute__(self, name)

        return type(kind.__name__, (kind,), {"__getattribute__": read, "__module__": kind.__module__})

    spies = {kind: spy(kind) for kind in set(kinds.values())}
    try:
        for key, module in modules.items():
            module.__class__ = spies[kinds[key]]
        yield
    finally:
        for key, module in modules.items():
            module.__class__ = kinds[key]


def count_changes(
    model: nn.Module, stack: Stack, sources: Sequence[int]
) -> tuple[list[AttributeChange], list[AttributeChange]]:
    """Return numbers and lists beside the stack that say how many layers there are, or hold something for each.

    Args:
        model: The model, before.
        stack: What grows.
        sources: Old position of the entry that each new one copies.

    Returns:
        Those of modules, and those of objects that modules hold (a config).
    """
    own: list[AttributeChange] = []
    held: list[AttributeChange] = []
    steps = stack.path.split(".")
    seen: set[int] = set()
    for at in range(len(steps), -1, -1):
        path = ".".join(steps[:at])
        module = model.get_submodule(path)
        own += [AttributeChange(path, *change) for change in _counts(vars(module), stack, sources)]
        for name, value in vars(module).items():
            content = (
                value if isinstance(value, dict) and not name.startswith("_") else getattr(value, "__dict__", None)
            )
            if isinstance(value, (nn.Module, type)) or content is None or id(value) in seen or callable(value):
                continue
            seen.add(id(value))
            held += [
                AttributeChange(f"{path}.{name}".lstrip("."), *change) for change in _counts(content, stack, sources)
            ]
    return own, held


def _counts(content: dict[Any, Any], stack: Stack, sources: Sequence[int]) -> Iterator[tuple[str, Any, Any]]:
    for name, value in list(content.items()):
        if not isinstance(name, str) or not _LISTS.search(name):
            continue
        if type(value) is int and value == stack.length and COUNTS.search(name):
            yield name, value, stack.length + len(stack.new)
        elif (
            isinstance(value, (list, tuple)) and len(value) == stack.length > 1 and all(type(v) in PLAIN for v in value)
        ):
            yield name, value, inserted(value, stack, sources)


def inserted(value: Any, stack: Stack, sources: Sequence[int]) -> Any:
    """Return a list or tuple of something for each layer as it is after the growth: new layers have their sources'."""
    merged = [*zip(stack.old, value, strict=True), *zip(stack.new, (value[s] for s in sources), strict=True)]
    return type(value)(item for _, item in sorted(merged, key=lambda pair: pair[0]))
