"""Interleaved repetitions and the ratio of their times."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from graftwork.runs import machine


def times(ways: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of each way in each repetition; the ways take turns, so that what disturbs one disturbs all."""
    for way in ways.values():
        way()  # the first run prepares kernels
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, way in ways.items():
            began = perf_counter()
            way()
            found[name].append(perf_counter() - began)
    return found


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How many times as long the slow way takes, repetition by repetition."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def commit() -> str:
    """Commit of the source tree; marked where it has changes."""
    here = Path(__file__).resolve().parent
    words = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def write(path: Path | None, found: dict[str, Any]) -> None:
    """Store results with the command, the commit and the machine, and say them."""
    words = [Path(word).name.upper() if os.sep in word and Path(word).is_dir() else word for word in sys.argv[1:]]
    name = Path(sys.argv[0]).name
    known = {"command": " ".join(["python", f"benchmarks/{name}", *words]), "commit": commit(), "machine": machine()}
    text = json.dumps({**found, **known}, indent=2)
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
