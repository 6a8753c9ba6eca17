"""What safety costs: the share of a search that goes into files, and the time until a resume trains again.

    python benchmarks/checkpointing.py --json results/speed/checkpointing.json

A search of the digits runs for a time budget with the default options. `share` is the time inside the calls that write
to the run folder (checkpoints, records, results: packing, hashing, syncing), over the time of the whole search. Then a
search that was stopped is resumed by the command, several times: seconds from the start of the process to the first
update, and how many of them a process needs that only imports torch. `processor` are seconds of the processor, which
other work on the machine hardly changes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

import _ratio
from graftwork.errors import SearchInterruptedError
from graftwork.evolution import SearchState
from graftwork.runs import RunFolder
from graftwork.session import SearchConfig, Session, SilentListener

WRITES = ("save_checkpoint", "append_records", "write_text", "write_json", "save_tensors", "remember", "clear_records")
FIRST_UPDATE = """
import os, sys, time
from graftwork.session import SilentListener
from graftwork.cli import _progress

class First(SilentListener):
    def on_step(self, *_):
        print(time.time(), flush=True)
        os._exit(0)

_progress.make_listener = lambda **_: First()
from graftwork.cli import main
main(sys.argv[1:])
"""
TORCH = "import torch"


class Clock:
    """Seconds inside some functions, by name; calls inside of calls count once."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._inside = False

    def watch(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        @wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            if self._inside:
                return function(*arguments, **options)
            self._inside, began = True, time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self._inside = False
                self.seconds[name] += time.perf_counter() - began
                self.calls[name] += 1

        return timed


class StopAfter(SilentListener):
    """Asks a session to stop after some updates."""

    def __init__(self, updates: int) -> None:
        self.updates, self.session = updates, None

    def on_step(self, state: SearchState, member: str, loss: float, progress: float) -> None:
        """Ask, when it is time."""
        if state.step >= self.updates and self.session is not None:
            self.session.stop_requested = True


def search(folder: Path, budget: str) -> dict[str, Any]:
    """Search under the clock."""
    clock = Clock()
    for name in WRITES:
        setattr(RunFolder, name, clock.watch(name, getattr(RunFolder, name)))
    name = "_checkpoint"  # packing is a part of it
    setattr(Session, name, clock.watch("checkpoint", getattr(Session, name)))
    found = Session.start(SearchConfig.from_dict({"data": "digits", "budget": budget}), folder / "run").run()
    spent = sum(clock.seconds.values())
    return {
        "budget": budget,
        "seconds": found["seconds"],
        "steps": found["steps"],
        "writing_seconds": round(spent, 4),
        "share": round(spent / found["seconds"], 5),
        "checkpoints": clock.calls["checkpoint"],
        "checkpoint_seconds": round(clock.seconds["checkpoint"] / max(1, clock.calls["checkpoint"]), 4),
    }


def resume(folder: Path, rounds: int) -> dict[str, Any]:
    """Stop a search, and time how long a resume takes to its first update."""
    listener = StopAfter(60)
    config = SearchConfig.from_dict({"data": "digits", "budget": "400steps"})
    listener.session = Session.start(config, folder / "stopped", listener=listener)
    with suppress(SearchInterruptedError):
        listener.session.run()
    command = [sys.executable, "-c", FIRST_UPDATE, "search", "--resume", str(folder / "stopped"), "--no-report"]
    taken: dict[str, list[tuple[float, float]]] = {"to_first_update": [], "importing_torch": []}
    for _ in range(rounds):
        for name, words in (("to_first_update", command), ("importing_torch", [sys.executable, "-c", TORCH])):
            began, before = time.time(), _processor()
            text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            ended = float(text.splitlines()[-1]) if text else time.time()
            taken[name].append((ended - began, _processor() - before))
    best = {name: tuple(map(min, zip(*rows, strict=True))) for name, rows in taken.items()}
    middle = {name: tuple(map(median, zip(*rows, strict=True))) for name, rows in taken.items()}
    return {
        "rounds": rounds,
        **{name: {"seconds": round(row[0], 3), "processor": round(row[1], 3)} for name, row in middle.items()},
        "best": {name: {"seconds": round(row[0], 3), "processor": round(row[1], 3)} for name, row in best.items()},
    }


def _processor() -> float:
    """Seconds of the processor that processes started here have taken."""
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="70s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = {"resume": resume(Path(name), given.rounds), "search": search(Path(name), given.budget)}
    _ratio.write(given.json, found)


if __name__ == "__main__":
    main()
