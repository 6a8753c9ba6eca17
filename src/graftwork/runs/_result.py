"""What ``result.json`` has to hold before anything is made of it."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

from graftwork._files import check_id
from graftwork.errors import RunError

_SCORES = ("validation_accuracy", "test_accuracy", "parameters", "flops")


def check_result(data: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the content of ``result.json``, if it has the shape of an outcome.

    Args:
        data: JSON object.
        where: Name of the file, for messages.

    Raises:
        RunError: If an entry is missing or of another kind, or an id is none.
    """
    _check_entry(data.get("best"), f"{where}: best")
    if data.get("seed_network") is not None:
        _check_entry(data["seed_network"], f"{where}: seed_network")
    survivors = data.get("survivors")
    if not isinstance(survivors, list) or not survivors:
        raise RunError(f"{where}: survivors: expected a list of entries, got {ascii(survivors)[:40]}; it is damaged")
    for number, entry in enumerate(survivors):
        _check_entry(entry, f"{where}: survivors {number}")
    for number, entry in enumerate(_ensembles(data, where)):
        _check_entry(entry, f"{where}: ensemble {number}", key="method")
        for member in entry.get("members", ()):
            check_id(member, f"{where}: ensemble {number}: member")
    return data


def _ensembles(data: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    found = data.get("ensemble") or []
    if not isinstance(found, list):
        raise RunError(f"{where}: ensemble: expected a list or null, got {type(found).__name__}; it is damaged")
    return found


def _check_entry(entry: Any, where: str, *, key: str = "id") -> None:
    if not isinstance(entry, dict):
        raise RunError(f"{where}: expected an object, got {ascii(entry)[:40]}; it is damaged")
    check_id(entry.get(key), f"{where}: {key}")
    for name in _SCORES:
        value = entry.get(name)
        optional = name == "test_accuracy" and value is None
        if not optional and (isinstance(value, bool) or not isinstance(value, Real)):
            raise RunError(f"{where}: {name}: expected a number, got {ascii(value)[:40]}; it is damaged")
