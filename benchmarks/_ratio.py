"""Interleaved repetitions and the ratio of their times."""

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from graftwork._files import as_json
from graftwork.runs import provenance


def times(ways: Mapping[str, Callable[[], object]], repetitions: int, *, warm: bool = False) -> dict[str, list[float]]:
    """Seconds of each way in each repetition; the ways take turns, so that what disturbs one disturbs all.

    The order alternates: neither always runs on what the other has left in the caches. The first run of a way prepares
    kernels and is not measured; with ``warm`` the caller has made it.
    """
    for way in () if warm else ways.values():
        way()
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repetitions):
        for name in list(ways) if number % 2 else reversed(ways):
            began = perf_counter()
            ways[name]()
            found[name].append(perf_counter() - began)
    return found


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How many times as long the slow way takes, repetition by repetition."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def write(path: Path | None, found: dict[str, Any]) -> None:
    """Store results with the command, and where they come from (commit, versions, machine), and say them."""
    words = [_plain(word) for word in sys.argv[1:]]
    name = Path(sys.argv[0]).name
    known = {"command": " ".join(["python", f"benchmarks/{name}", *words]), "provenance": provenance()}
    text = as_json({**found, **known}).rstrip()
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")


def _plain(word: str) -> str:
    """A word of a command without paths of this machine: a folder in capitals, a file by its name."""
    path = Path(word)
    plain = path.name.upper() if os.sep in word and path.is_dir() else path.name if path.is_absolute() else word
    return shlex.quote(plain)
