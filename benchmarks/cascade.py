"""What a cascade gives for what share of the best member's FLOPs, in short searches on digits and letters.

    python benchmarks/cascade.py --seeds 3 --jobs 2 --json results/cascade.json

Budgets are in updates and costs are counted, so nothing depends on the machine's speed. ``best`` is the best member on
validation; a cascade's threshold is chosen on the blend split, and the test split is opened once, at the end.
"""

import argparse
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import run
from typing import Any

import _ratio

COMMON = (
    "--recipe",
    "paper",
    "--selection",
    "pareto",
    "--num-survivors",
    "6",
    "--threads",
    "1",
    "--precision",
    "float32",
)
SEARCHES = {
    "digits, 2,200 updates": "--data digits --initial-steps 400 --steps-per-generation 300 --num-generations 6 "
    "--population-size 12 --blend 0.2 --validation 0.15",
    "letters, 550 updates": "--data letters --initial-steps 150 --steps-per-generation 100 --num-generations 4 "
    "--population-size 9 --blend 0.15 --validation 0.1",
    "letters, 1,500 updates": "--data letters --initial-steps 300 --steps-per-generation 300 --num-generations 4 "
    "--population-size 9 --blend 0.15 --validation 0.1",
}
"""Name → options of ``graftwork search`` beside `COMMON`."""


def measured(words: str, seed: int) -> dict[str, Any]:
    """Search once; accuracies on test with their intervals, and FLOPs of an image."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "graftwork", "search", *words.split(), *COMMON, "--seed", str(seed)]
        run([*command, "--quiet", "--no-report", "--out", str(out)], check=True, stdout=-3, stderr=-3)
        result = json.loads((out / "result.json").read_text())
    row = next(row for row in result["ensemble"] if row["method"] == "cascade")
    smallest = min(result["survivors"], key=lambda member: member["flops"])
    kept = ("test_accuracy", "test_interval", "flops")
    rows = {"smallest": smallest, "best": result["best"], "cascade": row}
    found: dict[str, Any] = {name: {key: entry[key] for key in kept if key in entry} for name, entry in rows.items()}
    return {
        **found,
        "seed": seed,
        "share_of_best": row["flops"] / result["best"]["flops"],
        "gained": row["test_accuracy"] - result["best"]["test_accuracy"],
        "stages": result["cascade"]["stages"],
        "curve": result["cascade"]["curve"],
    }


def main() -> None:
    """Measure every search with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="Searches at once.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = {
            name: [pool.submit(measured, words, seed) for seed in range(options.seeds)]
            for name, words in SEARCHES.items()
        }
        found = {name: [job.result() for job in held] for name, held in jobs.items()}
    _ratio.write(options.json, {"common": " ".join(COMMON), "searches": SEARCHES, "rows": found})


if __name__ == "__main__":
    main()
