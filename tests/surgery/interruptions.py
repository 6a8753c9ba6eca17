"""Exceptions and SIGINT in surgery, at random source lines and at every step: afterwards all is as before, or complete.

python -m tests.surgery.interruptions --points 1000 --seed 0 --out results/faults/surgery.json
"""

import argparse
import itertools
import json
import random
import shlex
import signal
import sys
import tempfile
import traceback
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeAlias

import torch

import graftwork as gw
from graftwork import surgery
from graftwork._files import as_json
from graftwork.runs import machine, provenance
from graftwork.surgery._transaction import Transaction
from tests.surgery.interrupted import ACTIONS, Subject, subject_of

SOURCES = (str(Path(surgery.__file__).parent), str(Path(gw.__file__).parent / "_files.py"))
KINDS = ("SIGINT", "KeyboardInterrupt", "RuntimeError")


Line: TypeAlias = tuple[str, int]
"""Path of a source file, number of a line."""


@dataclass
class Fault(ABC):
    """An exception or a signal that falls into an action once.

    Attributes:
        kind: One of `KINDS`.
        at: Which time that its place is passed; None only counts.
        count: How often the place was passed.
    """

    kind: str = ""
    at: int | None = None
    count: int = field(default=0, init=False)

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it falls, for a reader."""

    @abstractmethod
    def armed(self) -> AbstractContextManager[None]:
        """Inside, it may strike."""

    def passed(self) -> bool:
        """Count a pass of the place; returns whether it is the one to strike at."""
        self.count += 1
        return self.count == self.at

    def strike(self) -> None:
        """Raise."""
        if self.kind == "SIGINT":
            signal.raise_signal(signal.SIGINT)
            return
        raise KeyboardInterrupt if self.kind == "KeyboardInterrupt" else RuntimeError("injected")

    def run(self, action: Callable[[Subject], object], subject: Subject) -> BaseException | None:
        """Run an action under the fault; returns what it has raised."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # a file is closed with the frames that held it
            try:
                with self.armed():
                    action(subject)
            except BaseException as error:
                traceback.clear_frames(error.__traceback__)
                return error.with_traceback(None)
            finally:
                signal.signal(signal.SIGINT, signal.default_int_handler)
        return None


@contextmanager
def _tracing(trace: Callable[[FrameType, str, Any], Any]) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@dataclass
class Record(Fault):
    """No fault: it counts how often every line of surgery runs."""

    lines: Counter[Line] = field(default_factory=Counter, init=False)
    place = "nowhere"

    def armed(self) -> AbstractContextManager[None]:
        """See `Fault.armed`."""
        return _tracing(self._called)

    def _called(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(SOURCES) else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.lines[frame.f_code.co_filename, frame.f_lineno] += 1
        return self._line


@dataclass
class LineFault(Fault):
    """Strikes before the n-th run of a line; only functions that have the line are traced, as tracing takes long."""

    line: Line = ("", 0)

    @property
    def place(self) -> str:
        """See `Fault.place`."""
        return f"{Path(self.line[0]).name}:{self.line[1]}"

    def armed(self) -> AbstractContextManager[None]:
        """See `Fault.armed`."""
        return _tracing(self._called)

    def _called(self, frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        return self._line if code.co_filename == self.line[0] and self.line[1] in _lines_of(code) else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and frame.f_lineno == self.line[1] and self.passed():
            sys.settrace(None)
            self.strike()
            return None
        return self._line


@cache
def _lines_of(code: CodeType) -> frozenset[int | None]:
    return frozenset(line for _, _, line in code.co_lines())


@dataclass
class StepFault(Fault):
    """Strikes before the n-th step of a growth."""

    place = "step"

    @contextmanager
    def armed(self) -> Iterator[None]:
        """See `Fault.armed`."""

        def before_step(_: Transaction, __: str) -> None:
            if self.passed():
                self.strike()

        original = Transaction.before_step
        Transaction.before_step = before_step  # type: ignore[method-assign]
        try:
            yield
        finally:
            Transaction.before_step = original  # type: ignore[method-assign]


@dataclass
class Known:
    """What an action runs and leads to, undisturbed.

    Attributes:
        name: The action.
        folder: Where its subject saves.
        lines: Every line that it runs in surgery, and how often.
        steps: Number of steps of its transactions.
        after: Everything afterwards.
        saves: What the folder may hold afterwards.
    """

    name: str
    folder: Path
    lines: Counter[Line] = field(init=False)
    steps: int = field(init=False)
    after: Any = field(init=False)
    saves: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        action, counter = ACTIONS[self.name], StepFault()
        assert counter.run(action, subject_of(self.name, self.folder)) is None  # fills caches, too
        self.steps = counter.count
        subject = subject_of(self.name, self.folder)
        old, record = subject.saved(), Record()
        problem = record.run(action, subject)
        assert problem is None, problem
        self.lines, self.after, self.saves = record.lines, subject.values(), [old, subject.saved()]
        self._places = sorted(self.lines)

    def draw(self, rng: random.Random, kind: str) -> LineFault:
        """A fault at a random line, and at a random one of the times that it runs."""
        line = rng.choice(self._places)
        return LineFault(kind, rng.randint(1, self.lines[line]), line=line)

    def outcome(self, fault: Fault) -> str:
        """What a fault leads to: ``before``, ``complete``, ``another way`` (it was worked around), or a damage."""
        subject = subject_of(self.name, self.folder)
        before, identities = subject.values(), subject.identities()
        error = fault.run(ACTIONS[self.name], subject)
        now = subject.values()
        if subject.saved() not in self.saves:
            return f"damaged save after {error!r}"
        if now == before and subject.identities() == identities:
            return "before"
        if _lasting(now) == _lasting(self.after):
            return "complete"
        if error is None and _settings(now) == _settings(before):
            grown, old = subject.model.eval(), Subject(self.folder).model.eval()
            if torch.allclose(grown(subject.x), old(subject.x), atol=1e-5):
                return "another way"
        changed = [key for key in now if now[key] != before[key]]
        unlike = [key for key in now if now[key] != self.after[key]]
        return f"damaged: {', '.join(changed)} (from complete: {', '.join(unlike)}) after {error!r}"


def _settings(values: dict[str, Any]) -> Any:
    """Settings of the process, and of every module: its mode and its hooks."""
    modules = {name: (held["training"], hooks) for name, (_, held, hooks, _, _) in values["modules"].items()}
    before = {name: one for name, one in modules.items() if "graft" not in name and not name.startswith("blocks.")}
    return [before, *(values[name] for name in ("random", "modes", "dispatch", "makes", "kernels"))]


def _lasting(values: dict[str, Any]) -> dict[str, Any]:
    """Without the state of random numbers, which depends on what ran before."""
    return {**values, "random": None}


@dataclass
class Tally:
    """What faults into one action have led to.

    Attributes:
        name: The action.
        lines: Outcome → number of faults at random lines.
        steps: The same at every step.
        lines_run: Lines of surgery that the action runs.
        lines_hit: Those that a fault fell on.
        damages: A line for each.
    """

    name: str
    lines: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    lines_run: set[Line] = field(default_factory=set)
    lines_hit: set[Line] = field(default_factory=set)
    damages: list[str] = field(default_factory=list)

    def add(self, counts: Counter[str], known: Known, fault: Fault) -> None:
        """Try a fault and count what it leads to."""
        outcome = known.outcome(fault)
        if outcome.startswith("damaged"):
            self.damages.append(f"{self.name}: {fault.kind} at {fault.place} ({fault.at}): {outcome}")
            outcome = "damaged"
        counts[outcome] += 1


def tally(name: str, *, points: int, seed: int, steps: bool) -> Tally:
    """Try faults in one action; the arguments are those of `run`."""
    torch.set_num_threads(1)
    rng, found = random.Random(f"{seed}, {name}"), Tally(name)
    with tempfile.TemporaryDirectory() as folder:
        known = Known(name, Path(folder) / "save")
        found.lines_run = set(known.lines)
        for point in range(points):
            fault = known.draw(rng, KINDS[point % len(KINDS)])
            found.lines_hit.add(fault.line)
            found.add(found.lines, known, fault)
        for at, kind in itertools.product(range(1, known.steps + 1 if steps else 1), KINDS):
            found.add(found.steps, known, StepFault(kind, at))
    return found


def run(
    points: int,
    seed: int,
    *,
    actions: Sequence[str] = tuple(ACTIONS),
    steps: bool = True,
    jobs: int = 1,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Try faults at random lines and at every step.

    Args:
        points: Number of faults at random lines, for each action.
        seed: Seed of their places.
        actions: Names of what they fall into.
        steps: Whether every kind of fault is tried at every step, too.
        jobs: Number of processes; 1: in this one.
        note: Is told of progress and of every damage.

    Returns:
        Counts by action and by outcome, and the places of damages.
    """
    found = []
    one = partial(tally, points=points, seed=seed, steps=steps)
    with ExitStack() as stack:
        mapped = map
        if jobs > 1:
            mapped = stack.enter_context(ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))).map
        for result in mapped(one, actions):
            found.append(result)
            for text in (*result.damages, f"{len(found)} of {len(actions)}: {result.name}"):
                note(text)
    return {
        "points_of_each": points,
        "seed": seed,
        "kinds": list(KINDS),
        "lines_run": len(set().union(*(one.lines_run for one in found))),
        "lines_hit": len(set().union(*(one.lines_hit for one in found))),
        "at_random_lines": {one.name: dict(sorted(one.lines.items())) for one in found},
        "at_every_step": {one.name: dict(sorted(one.steps.items())) for one in found},
        "damages": [damage for one in found for damage in one.damages],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=1000, help="faults at random lines of each action")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--only", nargs="*", choices=list(ACTIONS), default=list(ACTIONS), metavar="ACTION")
    parser.add_argument("--lines-only", action="store_true", help="no faults at every step beside them")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    command = shlex.join(["python", "-m", "tests.surgery.interruptions", *sys.argv[1:]])
    about = {"command": command, "commit": provenance()["git_commit"], "machine": machine()}  # before it can change
    found = run(
        options.points,
        options.seed,
        actions=options.only,
        steps=not options.lines_only,
        jobs=options.jobs,
        note=lambda text: print(text, flush=True),
    )
    print(json.dumps(found, indent=2))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(as_json({**about, **found}))


if __name__ == "__main__":
    main()
