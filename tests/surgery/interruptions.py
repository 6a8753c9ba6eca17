"""Exceptions and SIGINT in surgery, at random source lines and at every step: afterwards all is as before, or complete.

python -m tests.surgery.interruptions --points 1000 --seed 0 --out results/faults/surgery.json
"""

import argparse
import itertools
import json
import random
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import graftwork as gw
from graftwork import surgery
from graftwork._files import as_json
from graftwork.runs import machine, provenance
from graftwork.surgery._transaction import Transaction
from tests.surgery.interrupted import ACTIONS, Subject, subject_of

SOURCES = (str(Path(surgery.__file__).parent), str(Path(gw.__file__).parent / "_files.py"))
KINDS = ("SIGINT", "KeyboardInterrupt", "RuntimeError")


@dataclass
class Fault:
    """Raises at the n-th line that runs in surgery; with ``at=None`` it only notes the lines."""

    kind: str = ""
    at: int | None = None
    lines: list[tuple[str, int]] = field(default_factory=list, init=False)
    count: int = field(default=0, init=False)

    def _global(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._local if frame.f_code.co_filename.startswith(SOURCES) else None

    def _local(self, frame: FrameType, event: str, _: Any) -> Any:
        if event != "line":
            return self._local
        self.count += 1
        if self.at is None:
            self.lines.append((frame.f_code.co_filename, frame.f_lineno))
        elif self.count == self.at:
            sys.settrace(None)
            self._strike()
            return None
        return self._local

    def _strike(self) -> None:
        if self.kind == "SIGINT":
            signal.raise_signal(signal.SIGINT)
            return
        raise KeyboardInterrupt if self.kind == "KeyboardInterrupt" else RuntimeError("injected")

    @contextmanager
    def _armed(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._global)
        try:
            yield
        finally:
            sys.settrace(before)

    def run(self, action: Callable[[Subject], object], subject: Subject) -> BaseException | None:
        """Run an action under the fault; returns what it has raised."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # a file is closed with the frames that held it
            try:
                with self._armed():
                    action(subject)
            except BaseException as error:
                traceback.clear_frames(error.__traceback__)
                return error.with_traceback(None)
            finally:
                signal.signal(signal.SIGINT, signal.default_int_handler)
        return None


class StepFault(Fault):
    """Raises before the n-th step of a growth; with ``at=None`` it only counts them."""

    @contextmanager
    def _armed(self) -> Iterator[None]:
        def before_step(_: Transaction, __: str) -> None:
            self.count += 1
            if self.count == self.at:
                self._strike()

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
        lines: Every line that it runs in surgery, in order.
        steps: Number of steps of its transactions.
        after: Everything afterwards.
        saves: What the folder may hold afterwards.
    """

    name: str
    folder: Path
    lines: list[tuple[str, int]] = field(init=False)
    steps: int = field(init=False)
    after: Any = field(init=False)
    saves: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        action, counter = ACTIONS[self.name], StepFault()
        assert counter.run(action, subject_of(self.name, self.folder)) is None  # fills caches, too
        self.steps = counter.count
        subject = subject_of(self.name, self.folder)
        old, fault = subject.saved(), Fault()
        problem = fault.run(action, subject)
        assert problem is None, problem
        self.lines, self.after, self.saves = fault.lines, subject.values(), [old, subject.saved()]

        self._places: dict[tuple[str, int], list[int]] = {}
        for number, line in enumerate(self.lines, start=1):
            self._places.setdefault(line, []).append(number)

    def draw(self, rng: random.Random) -> int:
        """A random line, and a random one of the times that it runs."""
        return rng.choice(self._places[rng.choice(sorted(self._places))])

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
    return [before, *(values[name] for name in ("random", "modes", "dispatch", "kernels"))]


def _lasting(values: dict[str, Any]) -> dict[str, Any]:
    """Without the state of random numbers, which depends on what ran before."""
    return {**values, "random": None}


@dataclass
class Tally:
    """Outcomes of faults, by action and by the way they were placed.

    Attributes:
        note: Is told of progress and of every damage.
        lines: Action → outcome → number of faults at random lines.
        steps: The same at every step.
        damages: A line for each.
    """

    note: Callable[[str], None]
    lines: dict[str, Counter[str]] = field(default_factory=dict)
    steps: dict[str, Counter[str]] = field(default_factory=dict)
    damages: list[str] = field(default_factory=list)

    def add(self, counts: dict[str, Counter[str]], known: Known, fault: Fault, place: str) -> None:
        """Try a fault and count what it leads to."""
        outcome = known.outcome(fault)
        if outcome.startswith("damaged"):
            self.damages.append(f"{known.name}: {fault.kind} at {place} ({fault.at}): {outcome}")
            self.note(self.damages[-1])
            outcome = "damaged"
        counts.setdefault(known.name, Counter())[outcome] += 1


def run(
    points: int,
    seed: int,
    *,
    actions: Sequence[str] = tuple(ACTIONS),
    steps: bool = True,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Try faults at random lines and at every step.

    Args:
        points: Number of faults at random lines, for each action.
        seed: Seed of their places.
        actions: Names of what they fall into.
        steps: Whether every kind of fault is tried at every step, too.
        note: Is told of progress and of every damage.

    Returns:
        Counts by action and by outcome, and the places of damages.
    """
    tally, lines_run, lines_hit = Tally(note), set[tuple[str, int]](), set[tuple[str, int]]()
    for number, name in enumerate(actions):
        rng = random.Random(f"{seed}, {name}")
        with tempfile.TemporaryDirectory() as folder:
            known = Known(name, Path(folder) / "save")
            lines_run |= set(known.lines)
            for point in range(points):
                at = known.draw(rng)
                path, line = known.lines[at - 1]
                lines_hit.add((path, line))
                tally.add(tally.lines, known, Fault(KINDS[point % len(KINDS)], at), f"{Path(path).name}:{line}")
            for at, kind in itertools.product(range(1, known.steps + 1 if steps else 1), KINDS):
                tally.add(tally.steps, known, StepFault(kind, at), "step")
        note(f"{number + 1} of {len(actions)}: {name}")
    return {
        "points_of_each": points,
        "seed": seed,
        "kinds": list(KINDS),
        "lines_run": len(lines_run),
        "lines_hit": len(lines_hit),
        "at_random_lines": {name: dict(sorted(found.items())) for name, found in tally.lines.items()},
        "at_every_step": {name: dict(sorted(found.items())) for name, found in tally.steps.items()},
        "damages": tally.damages,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=1000, help="faults at random lines of each action")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(ACTIONS), default=list(ACTIONS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    command = f"python -m tests.surgery.interruptions --points {options.points} --seed {options.seed}"
    about = {"command": command, "commit": provenance()["git_commit"], "machine": machine()}  # before it can change
    found = run(options.points, options.seed, actions=options.only, note=lambda text: print(text, flush=True))
    print(json.dumps(found, indent=2))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(as_json({**about, **found}))


if __name__ == "__main__":
    main()
