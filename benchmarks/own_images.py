"""What all defaults give on images as people have them, beside a plain CNN and scikit-learn.

    python benchmarks/own_images.py --json results/own_images.json

For each set of `_own_sets.py`: one ``graftwork search --budget``, with all other options left alone, whose recommended
model is scored on test; then, with the same splits, what `_plain.py` has: a small CNN that gets the processor seconds
that the search took, and logistic regression on principal components (with balanced weights where classes are uneven).

Each runs in a process of its own on one thread. A budget is counted in processor seconds (`_by_processor.py`), so that
other work on the machine changes little. Rows that stand in the file are kept: ``--again`` makes them anew.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import sqrt
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import _own_sets
import _ratio
from _own_sets import SETS, OwnSet
from graftwork.runs import provenance

HERE = Path(__file__).parent


def run(script: str, *words: str, cache: Path) -> dict[str, Any]:
    """Run a script of this folder in a process of its own; returns the last line that it says, and what it took."""
    environment = {**os.environ, "GRAFTWORK_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    began = time.time()
    with Popen([sys.executable, str(HERE / script), *words], stdout=PIPE, text=True, env=environment) as process:
        lines = (process.stdout or ()) and process.stdout.readlines()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{script} {' '.join(words)}: exit code {process.returncode}")
    return {
        **json.loads(lines[-1]),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "seconds": round(time.time() - began, 1),
        "peak_bytes": used.ru_maxrss * 1024,
    }


def error(score: float, support: Sequence[int]) -> float:
    """Standard error of a balanced accuracy by the test split: as if all classes were told equally well."""
    there = [count for count in support if count]
    images = len(there) ** 2 / sum(1 / count for count in there)
    smoothed = (score * images + 1) / (images + 2)
    return sqrt(smoothed * (1 - smoothed) / images)


def scored(row: dict[str, Any], support: Sequence[int]) -> dict[str, Any]:
    """A result with the half width of its 95 % interval, without what is not kept."""
    names = ("balanced_accuracy", "processor_seconds", "seconds", "peak_bytes")
    found = {name: row[name] for name in names}
    return {**found, "interval": round(1.96 * error(found["balanced_accuracy"], support), 4)}


def search(own: OwnSet, data: Path, out: Path, *, budget: str, more: Sequence[str], cache: Path) -> dict[str, Any]:
    """What the recommended model of a search scores, and how it came about."""
    words = ["search", "--data", str(data), "--budget", budget, "--out", str(out), "--json", "--no-report"]
    result = run("_by_processor.py", *words, *own.options, *more, cache=cache)
    ensembles = {row["method"]: row for row in result["ensemble"] or ()}
    recommended = ensembles[result["recommended"]] if ensembles else result["best"]
    stored = json.loads((out / "provenance.json").read_text())
    scores = {name: row["balanced_accuracy"] for name, row in ensembles.items()}
    return {
        **result,
        **{name: recommended[name] for name in ("balanced_accuracy", "test_accuracy")},
        "recommended": result["recommended"] or "best",
        "others": {**scores, "best": result["best"]["balanced_accuracy"]},
        "size": _size(out),
        "flip": (stored.get("race") or {}).get("flip"),
        "support": [row["support"] for row in result["per_class"]],
    }


def _size(out: Path) -> list[int]:
    channels, height, width = json.loads((out / "seed_genome.json").read_text())["input_shape"]
    return [height, width, channels]


def made(name: str, own: OwnSet, place: Path) -> tuple[Path, Path]:
    """A set's data, made where they are not there yet, and a cache for them."""
    folder = place / name
    if not (folder / "made").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "made").write_text(str(own.make(folder / "data")))
    return Path((folder / "made").read_text()), place / f"{name}-cache"


def measure(name: str, *, seconds: float, more: Sequence[str], place: Path, rivals: bool = True) -> dict[str, Any]:
    """The row of a set."""
    own = SETS[name]
    data, cache = made(name, own, place)
    with tempfile.TemporaryDirectory(dir=place) as where:
        out = Path(where) / "run"
        found = search(own, data, out, budget=f"{own.seconds or seconds:g}s", more=more, cache=cache)
        support = found["support"]
        kept = ("recommended", "test_accuracy", "others", "size", "flip", "steps", "generations")
        row = {"about": own.about, "search": scored(found, support) | {key: found[key] for key in kept}}
        if not rivals:
            return row
        spent, mirrored = str(found["processor_seconds"]), ["--mirrored"] if own.mirrored else []
        cnn = run("_plain.py", "cnn", "--run", str(out), "--seconds", spent, *mirrored, cache=cache)
        components = run("_plain.py", "components", "--run", str(out), cache=cache)
    return row | {"cnn": scored(cnn, support), "components": scored(components, support)} | judged(row, cnn, components)


def judged(row: Mapping[str, Any], *rivals: Mapping[str, Any]) -> dict[str, Any]:
    """How far the search is above the better rival, and the half width of that difference's 95 % interval."""
    own, other = row["search"]["balanced_accuracy"], max(rival["balanced_accuracy"] for rival in rivals)
    support = rivals[0]["support"]
    noise = 1.96 * sqrt(error(own, support) ** 2 + error(other, support) ** 2)
    return {"ahead": round(own - other, 4), "noise": round(noise, 4)}


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a set, in Markdown."""
    lines = ["| set | search | plain CNN | PCA | ahead ± noise | size | processor s | memory |", "|---|" + "---|" * 7]
    for name, row in rows.items():
        own, size = row["search"], row["search"]["size"]
        accuracies = " | ".join(f"{row[way]['balanced_accuracy']:.3f}" for way in ("search", "cnn", "components"))
        lines.append(
            f"| {name} | {accuracies} | {row['ahead']:+.3f} ± {row['noise']:.3f} | {size[0]}×{size[1]} | "
            f"{own['processor_seconds']:.0f} | {own['peak_bytes'] / 1e9:.1f} GB |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure the sets that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seconds", type=float, default=30, help="Budget of a search, in processor seconds.")
    parser.add_argument("--jobs", type=int, default=1, help="Sets that are measured at once.")
    parser.add_argument("--place", type=Path, help="Folder for the data, to be used again; a temporary one otherwise.")
    parser.add_argument("--fashion", type=Path, default=_own_sets.FASHION, help="Folder of Fashion-MNIST's files.")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("more", nargs="*", help="After --: other options of the search, to try them.")
    options = parser.parse_args()
    _own_sets.FASHION = options.fashion
    stored = options.json is not None and options.json.exists() and not options.again
    rows: dict[str, Any] = json.loads(options.json.read_text())["rows"] if stored else {}
    commit = provenance()["git_commit"]

    def one(name: str) -> None:
        if missing := SETS[name].missing():
            print(f"{name}: left out, as it takes {missing}", file=sys.stderr)
            return
        row = measure(name, seconds=options.seconds, more=options.more, place=place)
        rows[name] = row | {"git_commit": commit}
        print(table({name: row}).splitlines()[-1], file=sys.stderr, flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps({"rows": rows}))

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        place = options.place or Path(folder)
        list(pool.map(one, [name for name in options.sets if name not in rows]))
    _ratio.write(options.json, {"table": table(rows).splitlines(), "rows": rows})


if __name__ == "__main__":
    main()
