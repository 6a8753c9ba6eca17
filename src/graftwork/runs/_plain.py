"""Plain data from a file, checked against the types that describe it."""

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import cache, partial
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from graftwork._files import check_id
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
    key: Any = kind  # to mypy a class is not always hashable
    found: T = _reader(key)(value, where)
    return found


Reader = Callable[[Any, str], Any]
"""Function of a value and of where it stands, that returns what the value describes."""


@cache
def _reader(kind: Any) -> Reader:
    """The check of a type, made once: a long run has many records."""
    origin, inner = get_origin(kind), get_args(kind)
    read: Reader
    if is_dataclass(kind) or is_typeddict(kind):
        read = _object_reader(kind)
    elif kind is MemberId or (origin is Annotated and inner[1] is check_id):
        read = partial(_read_id, _reader(str))
    elif origin in (Union, UnionType):
        read = partial(_read_optional, _reader(next(one for one in inner if one is not NoneType)))
    elif origin is Literal:
        read = partial(_read_literal, inner)
    elif origin is Annotated:
        read = partial(_read_bounded, _reader(inner[0]), *inner)
    elif origin in (tuple, list):
        read = partial(_read_list, origin, _reader(inner[0]))
    elif origin is not None:
        read = partial(_read_mapping, _reader(inner[1]))
    else:
        read = partial(_read_plain, kind)
    return read


def _read_id(read: Reader, value: Any, where: str) -> str:
    return check_id(read(value, where), where)


def _read_optional(read: Reader, value: Any, where: str) -> Any:
    return None if value is None else read(value, where)


def _read_literal(allowed: tuple[Any, ...], value: Any, where: str) -> Any:
    _expect(value in allowed, " or ".join(map(repr, allowed)), value, where)
    return value


def _read_plain(kind: Any, value: Any, where: str) -> Any:
    if kind is not Any:
        accepted = (int, float) if kind is float else kind
        wrong = not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool)
        _expect(not wrong, _WORDS[kind], value, where)
        _expect(isinstance(value, str) or not abs(value) > _MAX_NUMBER, "a smaller number", value, where)
    return value


def _read_bounded(read: Reader, kind: type, bounds: tuple[float, float | None], value: Any, where: str) -> Any:
    low, high = bounds
    words = f">= {low}" if high is None else f"from {low} to {high}"
    fits = low <= read(value, where) <= (_MAX_NUMBER if high is None else high)
    _expect(fits, f"{_WORDS[kind]} {words}", value, where)
    return value


def _read_list(make: type, read: Reader, value: Any, where: str) -> Any:
    _expect(isinstance(value, list | tuple), "a list", value, where)
    _expect(len(value) <= _LONGEST, f"at most {_LONGEST:,} entries", len(value), where)
    return make(read(entry, f"{where}[{number}]") for number, entry in enumerate(value))


def _read_mapping(read: Reader, value: Any, where: str) -> dict[str, Any]:
    _expect(isinstance(value, dict), "an object", value, where)
    keys = [check_id(key, f"{where}: key") for key in value]
    return {key: read(value[key], f"{where}.{key}") for key in keys}


def _object_reader(kind: Any) -> Reader:
    readers = {name: _reader(hint) for name, hint in get_type_hints(kind, include_extras=True).items()}

    def read(value: Any, where: str) -> Any:
        _expect(isinstance(value, dict), "an object", value, where)
        for name in readers:
            if name not in value:
                given = ascii(", ".join(value) or "none")[1:-1][:80]
                raise RunError(f"{where}: expected a key {name!r}, got {given}; {_ADVICE}")
        fields = {name: one(value[name], f"{where}, {name}") for name, one in readers.items()}
        return {**value, **fields} if is_typeddict(kind) else kind(**fields)

    return read


def _expect(right: bool, words: str, value: object, where: str) -> None:
    if not right:
        raise RunError(f"{where}: expected {words}, got {ascii(value)[:80]}; {_ADVICE}")
