"""Give every reader of a stranger's bytes nearly valid ones, and count what comes out beside our own errors.

    python -m tests.faults.fuzz --inputs 1000000 --json results/faults/fuzz.json

Each input follows from the seed, its reader, its number and the files of a run that is made first. Readers run in
forked processes, since a fault in a compiled library ends a process. Counts are stored as it goes; the same command
continues from them. Inputs that bring about anything but our own errors are kept where ``--findings`` says.
"""

import argparse
import json
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from graftwork._files import as_json
from graftwork.errors import GraftworkError
from graftwork.runs import provenance
from tests.cases.commands import graftwork as command
from tests.cases.commands import require, tiny_search
from tests.faults._fuzzed import Reader, readers
from tests.faults._mutations import mutated

PIECE = 2000
"""Inputs that one process reads."""
SECONDS = 10
"""Processor time for one input; more is a finding."""
MEMORY = 3 * 2**30
"""Bytes that reading may take beside what the libraries take."""
_MOST_FINDINGS = 20


def input_of(reader: Reader, name: str, number: int, seed: int) -> bytes:
    """One input: the same at every call."""
    return mutated(reader.seeds, reader.kind, random.Random(f"{seed} {name} {number}"))


def outcome_of(reader: Reader, data: bytes, folder: Path) -> str:
    """How a reader takes an input: ``"read"``, ``"refused"``, or what came out and from where."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(data, folder)
    except GraftworkError:
        return "refused"
    except BaseException as error:  # (a panic of a library in Rust is one)
        return _named(error)
    return "read"


def _named(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/graftwork/" in f.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {where}: {ascii(str(error))[1:120]}"


def piece(reader: Reader, name: str, numbers: range, seed: int, shared: mmap.mmap, folder: Path) -> None:
    """Read some inputs, in a process of its own, and leave the counts beside it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    for number in numbers:
        shared[:8] = struct.pack("q", number)
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        how = outcome_of(reader, input_of(reader, name, number, seed), folder)
        counts[how] += 1
        first.setdefault(how, number)
        if number % 50 == 0:
            (folder / "counts.json").write_text(json.dumps([dict(counts), first, number]))
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    (folder / "counts.json").write_text(json.dumps([dict(counts), first, numbers[-1]]))


def run_piece(reader: Reader, name: str, numbers: range, seed: int) -> tuple[Counter[str], dict[str, int], int]:
    """Fork, read, and say what came out, from which input first, and where to go on."""
    shared = mmap.mmap(-1, 8)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as text:
        folder = Path(text)
        (folder / "counts.json").write_text("[{}, {}, -1]")
        pid = os.fork()
        if pid == 0:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            try:
                piece(reader, name, numbers, seed, shared, folder)
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        counts, first, last = json.loads((folder / "counts.json").read_text())
    found = Counter(counts)
    if not os.WIFSIGNALED(status) and last == numbers[-1]:
        return found, first, numbers.stop
    (fatal,) = struct.unpack("q", shared[:8])
    end = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "an end without a word"
    how = f"the process ended by {end}" if end != "SIGVTALRM" else f"more than {SECONDS} s"
    redone = range(max(last + 1, numbers.start), fatal)  # since the counts were stored
    if redone:
        again, more, _ = run_piece(reader, name, redone, seed)
        found, first = found + again, {**more, **first}
    found[how] += 1
    first.setdefault(how, fatal)
    return found, first, fatal + 1


def make_run(folder: Path) -> Path:
    """A finished run, whose files are the valid inputs."""
    ending = command(*tiny_search(folder, "--blend", 50))
    require(ending.code == 0, ending.text)
    return folder / "run"


def fuzz(
    found: dict[str, Any], every: dict[str, Reader], *, inputs: int, seed: int, findings: Path | None, store: Any
) -> None:
    """Read until each reader has had its share; ``found`` holds what was counted before."""
    for name, reader in every.items():
        wanted = max(int(inputs * reader.share), min(inputs, 10_000))
        entry = found.setdefault(name, {"inputs": 0, "read": 0, "refused": 0, "found": {}, "seconds": 0.0})
        while entry["inputs"] < wanted:
            began = time.monotonic()
            numbers = range(entry["inputs"], min(entry["inputs"] + PIECE, wanted))
            counts, first, following = run_piece(reader, name, numbers, seed)
            entry["inputs"] = following
            for how, count in counts.items():
                if how in ("read", "refused"):
                    entry[how] += count
                elif how in entry["found"] or len(entry["found"]) < _MOST_FINDINGS:
                    one = entry["found"].setdefault(how, {"count": 0, "first": first[how]})
                    one["count"] += count
                    if findings is not None:
                        path = findings / f"{name}-{one['first']}"
                        path.write_bytes(input_of(reader, name, one["first"], seed))
                else:
                    entry["more"] = entry.get("more", 0) + count
            entry["seconds"] = round(entry["seconds"] + time.monotonic() - began, 2)
            store(found)


def main() -> None:
    """Fuzz what is asked for, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all readers together, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True, help="file of the counts, to go on with")
    parser.add_argument("--only", nargs="*", help="readers")
    parser.add_argument("--findings", type=Path, help="folder for the inputs that are found")
    options = parser.parse_args()
    found = json.loads(options.json.read_text())["readers"] if options.json.exists() else {}
    options.json.parent.mkdir(parents=True, exist_ok=True)

    where = provenance()["git_commit"]

    def store(counts: dict[str, Any]) -> None:
        aside = options.json.with_suffix(".tmp")
        aside.write_text(as_json({**totals(counts), "readers": counts}), encoding="utf-8")
        aside.replace(options.json)

    def totals(counts: dict[str, Any]) -> dict[str, Any]:
        wrong = sum(one["count"] for entry in counts.values() for one in entry["found"].values())
        return {
            "command": f"python -m tests.faults.fuzz {' '.join(sys.argv[1:])}",
            "commit": where,
            "seed": options.seed,
            "inputs": sum(entry["inputs"] for entry in counts.values()),
            "read": sum(entry["read"] for entry in counts.values()),
            "refused by our own errors": sum(entry["refused"] for entry in counts.values()),
            "other endings": wrong + sum(entry.get("more", 0) for entry in counts.values()),
        }

    with tempfile.TemporaryDirectory(prefix="fuzz-run-") as folder:
        every = readers(make_run(Path(folder)))
        chosen = {name: reader for name, reader in every.items() if not options.only or name in options.only}
        if options.findings is not None:
            options.findings.mkdir(parents=True, exist_ok=True)
        fuzz(found, chosen, inputs=options.inputs, seed=options.seed, findings=options.findings, store=store)
    print(json.dumps(totals(found)))


if __name__ == "__main__":
    main()
