"""What each level of ``--augment`` gives, all else by default.

    python benchmarks/augment.py --json results/augment/augment.json

Each row is one search of `own_images.py` on one thread, for a budget in FLOPs: other work on the machine changes
nothing, and what augmentation itself takes is not in it. ``light`` is what the default recipe takes. Nothing is chosen
by the test split; the rule of the default may be, by validation. Rows that stand in the file are kept.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import _own_sets
import _ratio
from _own_sets import SETS, OwnSet
from graftwork.runs import provenance
from graftwork.training import AUGMENTATIONS
from own_images import made, search

FEW_FASHION = OwnSet(
    lambda folder: _own_sets.fashion(folder, train=1_000, tests=5_000),
    "Fashion-MNIST, 1,000 training images",
    mirrored=True,
)
KNOWN = {**SETS, "few-fashion": FEW_FASHION}
NAMES = ("letters", "ten-a-class", "16-bit", "few-fashion")


def measure(name: str, level: str, seed: int, *, budget: str, place: Path) -> dict[str, Any]:
    """One search: accuracy of its best member on validation, and balanced accuracy of what is recommended on test."""
    (data, cache), more = made(name, KNOWN[name], place), ["--augment", level, "--seed", str(seed)]
    with tempfile.TemporaryDirectory(dir=place) as out:
        found = search(KNOWN[name], data, Path(out) / "run", budget=budget, more=more, cache=cache)
    kept = ("balanced_accuracy", "recommended", "flip", "size", "steps", "generations", "processor_seconds")
    return {
        "set": name,
        "augment": level,
        "seed": seed,
        "validation_accuracy": found["best"]["validation_accuracy"],
        **{key: found[key] for key in kept},
    }


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Means over the seeds that all levels of a set have, in Markdown."""
    lines = ["| set | seeds | " + " | ".join(AUGMENTATIONS) + " |", "|---|---|" + "---|" * len(AUGMENTATIONS)]
    for name in dict.fromkeys(row["set"] for row in rows):
        by = {(row["augment"], row["seed"]): row for row in rows if row["set"] == name}
        seeds = [seed for seed in sorted({s for _, s in by}) if all((level, seed) in by for level in AUGMENTATIONS)]
        for what in ("validation_accuracy", "balanced_accuracy") if seeds else ():
            means = (mean(by[level, seed][what] for seed in seeds) for level in AUGMENTATIONS)
            lines.append(f"| {name}, {what} | {len(seeds)} | " + " | ".join(f"{value:.3f}" for value in means) + " |")
    return lines


def main() -> None:
    """Measure what is not in the file yet, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=NAMES, choices=list(KNOWN))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", default="1TFLOP", help="What a search may spend.")
    parser.add_argument("--place", type=Path, help="Folder for the data, to be used again; a temporary one otherwise.")
    parser.add_argument("--fashion", type=Path, default=_own_sets.FASHION, help="Folder of Fashion-MNIST's files.")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    _own_sets.FASHION = options.fashion
    rows: list[dict[str, Any]] = json.loads(options.json.read_text())["rows"] if options.json.exists() else []
    known, commit = {(row["set"], row["augment"], row["seed"]) for row in rows}, provenance()["git_commit"]
    with tempfile.TemporaryDirectory() as folder:
        place = options.place or Path(folder)
        for seed in range(options.seeds):
            for name in options.sets:
                for level in AUGMENTATIONS:
                    if (name, level, seed) in known:
                        continue
                    row = measure(name, level, seed, budget=options.budget, place=place)
                    rows.append({**row, "git_commit": commit})
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                    options.json.parent.mkdir(parents=True, exist_ok=True)
                    options.json.write_text(json.dumps({"rows": rows}))
    _ratio.write(options.json, {"table": table(rows), "rows": rows})


if __name__ == "__main__":
    main()
