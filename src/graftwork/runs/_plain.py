"""Plain data from a file, checked against the types that describe it."""

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from graftwork._files import check_id, is_id
from graftwork.errors import RunError
from graftwork.typing import MemberId

T = TypeVar("T")
Id = Annotated[str, check_id]
"""A text that is safe in paths and pages, as every `MemberId` has to be."""
Share = Annotated[float, (0, 1)]
Count = Annotated[int, (0, None)]
Amount = Annotated[float, (0, None)]
_MAX_NUMBER, _LONGEST = 10**24, 10**5
_WORDS: Mapping[Any, str] = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
_ADVICE = "the run folder is damaged or of another version"


def checked(kind: type[T], value: object, where: str) -> T:
    """Check plain data against a type and build what it describes.

    Dataclasses are built from objects by their fields, tuples from lists; objects of a `typing.TypedDict` stay dicts.
    Keys that a type does not name are passed over by dataclasses and kept by dicts.

    Args:
        kind: A dataclass or `typing.TypedDict` of ``int``, ``float``, ``str``, ``bool``, literals, ids, numbers
            within bounds, ``T | None``, ``tuple[T, ...]``, ``list[T]``, ``Mapping[str, T]`` and further such classes.
            The keys of a mapping are ids.
        value: What JSON gave.
        where: The file, and its line where it has several; errors begin with it.

    Raises:
        RunError: If a key is missing, or a value has another type or is out of bounds; the message names file, line
            and key.
    """
    found: T = _read(kind, value, where)
    return found


def _read(kind: Any, value: Any, where: str) -> Any:
    kind = Id if kind is MemberId else kind
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind) or is_typeddict(kind):
        return _read_object(kind, value, where)
    if origin in (Union, UnionType):
        return None if value is None else _read(next(one for one in inner if one is not NoneType), value, where)
    if origin is Literal:
        _expect(value in inner, " or ".join(map(repr, inner)), value, where)
    elif origin is Annotated:
        return _read_bounded(inner[0], inner[1], value, where)
    elif origin in (tuple, list):
        _expect(isinstance(value, list | tuple), "a list", value, where)
        _expect(len(value) <= _LONGEST, f"at most {_LONGEST:,} entries", len(value), where)
        fits = _fits(inner[0])
        return origin(
            entry if fits(entry) else _read(inner[0], entry, f"{where}[{number}]") for number, entry in enumerate(value)
        )
    elif origin is not None:  # a mapping
        _expect(isinstance(value, dict), "an object", value, where)
        keys = [check_id(key, f"{where}: key") for key in value]
        return {key: _read(inner[1], value[key], f"{where}.{key}") for key in keys}
    elif kind is not Any:
        accepted = (int, float) if kind is float else kind
        wrong = not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool)
        _expect(not wrong, _WORDS[kind], value, where)
        _expect(isinstance(value, str) or not abs(value) > _MAX_NUMBER, "a smaller number", value, where)
    return value


def _read_bounded(kind: Any, bounds: Any, value: Any, where: str) -> Any:
    """Read an `Id`, or a number within bounds."""
    _read(kind, value, where)
    if bounds is check_id:
        return check_id(value, where)
    low, high = bounds
    words = f">= {low}" if high is None else f"from {low} to {high}"
    _expect(low <= value <= (_MAX_NUMBER if high is None else high), f"{_WORDS[kind]} {words}", value, where)
    return value


def _read_object(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), "an object", value, where)
    hints = _hints(kind)
    for name in hints:
        if name not in value:
            given = ascii(", ".join(value) or "none")[1:-1][:80]
            raise RunError(f"{where}: expected a key {name!r}, got {given}; {_ADVICE}")
    fields = {
        name: value[name] if _fits(hint)(value[name]) else _read(hint, value[name], f"{where}, {name}")
        for name, hint in hints.items()
    }
    return {**value, **fields} if is_typeddict(kind) else kind(**fields)


@cache
def _fits(kind: Any) -> Callable[[Any], bool]:
    """A quick check that takes most right values as they are; `_read` looks closely at the others."""
    kind = Id if kind is MemberId else kind
    bounds: tuple[float, float | None] = (-_MAX_NUMBER, _MAX_NUMBER)
    if get_origin(kind) is Annotated:
        kind, found = get_args(kind)
        if found is check_id:
            return lambda value: type(value) is str and is_id(value)
        bounds = found
    low, high = bounds[0], _MAX_NUMBER if bounds[1] is None else bounds[1]
    if kind in (int, float):
        kinds = (int,) if kind is int else (int, float)
        return lambda value: type(value) in kinds and low <= value <= high
    return lambda value: kind is str and type(value) is str


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _expect(right: bool, words: str, value: object, where: str) -> None:
    if not right:
        raise RunError(f"{where}: expected {words}, got {ascii(value)[:80]}; {_ADVICE}")
