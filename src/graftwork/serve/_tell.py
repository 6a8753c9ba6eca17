"""What the page says of a run in words and numbers, as plain data for the templates."""

import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from graftwork._files import inside
from graftwork.errors import GraftworkError
from graftwork.reports import RunData, compact, interval_text, percent
from graftwork.serve._shelf import Snapshot

_CHECKPOINT = re.compile(r"([a-z]{1,20})-(\d{8,18})")
_UNKNOWN = "–"
_STATES: Mapping[str, str] = {
    "running": "running",
    "finished": "finished",
    "stopped": "stopped in order; it can be resumed",
    "dead": "its process is gone; it can be resumed from its last checkpoint",
    "broken": "the folder can’t be read",
}


def summary(snapshot: Snapshot) -> dict[str, Any]:
    """One line about a run: its state, its task, its best member and what it has spent."""
    run = snapshot.run
    return {
        "id": snapshot.id,
        "name": snapshot.name,
        "revision": snapshot.revision,
        "state": snapshot.state,
        "means": _STATES[snapshot.state],
        "owner": snapshot.owner if snapshot.state in ("running", "dead") else "",
        "error": snapshot.error,
        **(_numbers(run) if run is not None else {}),
    }


def _numbers(run: RunData) -> dict[str, str]:
    last = run.rounds[-1] if run.rounds else None
    entry: Mapping[str, Any] = run.result["best"] if run.result is not None else {}
    scores = run.scores.get(run.best, ()) if run.best is not None else ()
    score = scores[-1] if scores else None
    spent: Any = run.result or last
    return {
        "task": _task(run),
        "validation": percent(entry.get("validation_accuracy", score.validation_accuracy if score else None)),
        "test": percent(entry.get("test_accuracy")),
        "interval": interval_text(*entry["test_interval"]) if entry else _UNKNOWN,
        "image_flops": compact(entry.get("flops", score.flops if score else 0)) if entry or score else _UNKNOWN,
        "training_flops": compact(_of(spent, "training_flops")) if spent else _UNKNOWN,
        "seconds": duration(_of(run.result or (run.control or [last])[-1], "seconds")) if spent else _UNKNOWN,
        "generation": str(last.generation) if last else _UNKNOWN,
        "members": f"{len(run.births):,}",
    }


def _of(spent: Any, name: str) -> float:
    """A number of a result, or of a row."""
    return float(spent[name] if isinstance(spent, Mapping) else getattr(spent, name))


def _task(run: RunData) -> str:
    data = run.provenance.get("data")
    name = run.result["data"] if run.result is not None else data.get("name") if isinstance(data, Mapping) else None
    return str(name or _UNKNOWN)


def duration(seconds: float) -> str:
    """Seconds as ``4 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def checkpoints(snapshot: Snapshot) -> list[dict[str, str]]:
    """The checkpoints that a run holds, newest first: stage, updates, size and time."""
    try:
        folder = inside(snapshot.path, "checkpoints")
        found = [(entry, _CHECKPOINT.fullmatch(entry.name)) for entry in os.scandir(folder)]
        known = [
            (entry.stat(follow_symlinks=False).st_mtime, match[1], int(match[2]), _size(entry.path))
            for entry, match in found
            if match is not None and entry.is_dir(follow_symlinks=False)
        ]
    except (GraftworkError, OSError):  # none, or replaced just now
        return []
    return [
        {"stage": stage, "updates": f"{step:,}", "size": f"{compact(size)}B", "at": _time(at)}
        for at, stage, step, size in sorted(known, reverse=True)
    ]


def _size(folder: str) -> int:
    return sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(folder))


def _time(stamp: float) -> str:
    return datetime.fromtimestamp(stamp, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def doubts(snapshots: Sequence[Snapshot]) -> list[str]:
    """Why accuracies of runs should not be compared; empty where nothing speaks against it."""
    data = [one.run.provenance.get("data") for one in snapshots if one.run is not None]
    prints = {str(one.get("fingerprint")) for one in data if isinstance(one, Mapping)}
    if len(prints) > 1:
        return ["These runs are on different data: their accuracies say nothing about each other."]
    return []
