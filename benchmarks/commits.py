"""Two commits side by side: how many times as long the one before takes for our own ways of two benchmarks.

    git worktree add ../before COMMIT
    python benchmarks/commits.py --before ../before --data PATH-TO-CIFAR10 --json results/speed/commits.json

Each checkout runs `scoring.py` and `joint_training.py` of its own in a process of its own, which stops where the
benchmark would take its times; this process then asks them in turn for one repetition each, so that what disturbs one
disturbs both. A ratio above 1 says that this checkout is the faster one. The naive ways are not timed.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

OURS = {"scoring": ("shared", "one_by_one"), "joint_training": ("pipeline", "ready")}
"""Benchmark → its ways that run the package."""


def serve(benchmark: str, data: str, threads: str) -> None:
    """Run a benchmark of the checkout whose folders are on the path; answer each line "run WAY" with its seconds."""
    import importlib

    import _ratio

    answers, sys.stdout = sys.stdout, sys.stderr

    def say(value: object) -> None:
        print(json.dumps(value), file=answers, flush=True)

    def times(ways: dict[str, Any], repetitions: int, *, warm: bool = False) -> dict[str, list[float]]:
        names = [name for name in OURS[benchmark] if name in ways]
        for name in names:
            ways[name]()
        say(names)
        while (line := sys.stdin.readline().strip()).startswith("run "):
            began = perf_counter()
            ways[line.removeprefix("run ")]()
            say(perf_counter() - began)
        return {name: [1.0] * repetitions for name in ways}

    _ratio.times = times
    _ratio.write = lambda path, found: say(found["choice"])
    module = importlib.import_module(benchmark)
    if benchmark == "joint_training":
        module.agreement = lambda *ignored: {}
    sys.argv = [benchmark, "--data", data, "--threads", threads]
    module.main()


class Checkout:
    """A process that runs one benchmark of a checkout."""

    def __init__(self, folder: Path, benchmark: str, given: argparse.Namespace) -> None:
        path = os.pathsep.join([str(folder / "src"), str(folder / "benchmarks")])
        words = [str(Path(__file__).resolve()), "--serve", benchmark, "--data", str(Path(given.data).resolve())]
        self.process = subprocess.Popen(
            [sys.executable, "-P", *words, "--threads", str(given.threads)],
            cwd=folder, env=os.environ | {"PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def hear(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, line: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.hear()


def compare(benchmark: str, given: argparse.Namespace, here: Path) -> dict[str, Any]:
    """Seconds of both checkouts by section and way, and the machine choices of both."""
    sides, ways = {}, []
    for name, folder in (("before", given.before.resolve()), ("after", here)):
        sides[name] = Checkout(folder, benchmark, given)
        ways = sides[name].hear()
    found: dict[str, Any] = {}
    for section in ("evolved", "lineage") if benchmark == "scoring" else ("population",):
        for way in ways:
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            for number in range(given.repetitions):
                for name in list(sides) if number % 2 else reversed(list(sides)):
                    seconds[name].append(sides[name].ask(f"run {way}"))
            found[f"{section}_{way}"] = seconds
            print(benchmark, section, way, seconds, file=sys.stderr)
        last = {name: side.ask("next") for name, side in sides.items()}
    return {"seconds": found, "choice": last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="the other checkout")
    parser.add_argument("--data", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", choices=tuple(OURS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.data, str(given.threads))
        return
    import _ratio

    here = Path(__file__).resolve().parents[1]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=given.before, capture_output=True, text=True, check=True)
    found = {name: compare(name, given, here) for name in OURS}
    ratios = {
        f"{name}_{way}": _ratio.ratio(seconds["before"], seconds["after"])
        for name, sides in found.items()
        for way, seconds in sides["seconds"].items()
    }
    told = {"before": commit.stdout.strip(), "threads": given.threads, "repetitions": given.repetitions}
    _ratio.write(given.json, {**told, "ratios": ratios, **found})


if __name__ == "__main__":
    main()
