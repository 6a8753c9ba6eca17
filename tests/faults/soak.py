"""Search for an hour in one process: memory, descriptors and the time of an update stay as they are.

    python -m tests.faults.soak --minutes 60 --json results/faults/soak.json

The same search on digits, with checkpoints and ensembles, is made over and over: networks grow within a
search, but every search has the same work, so that what one leaves behind shows as a trend. The time of an update is
the CPU time of the process: other work on the machine counts less.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from graftwork.machine import keep_memory
from graftwork.runs import GenerationRow, machine, write_json
from graftwork.session import SearchConfig, Session
from tests.faults._trials import commit

OPTIONS: dict[str, Any] = {
    "data": "digits",
    "recipe": "paper",
    "initial_steps": 8,
    "steps_per_generation": 8,
    "num_generations": 10,
    "population_size": 16,
    "num_survivors": 4,
    "batch_size": 16,
    "validation": 50,
    "blend": 20,
    "test": 50,
    "num_calibration": 50,
    "precision": "float32",
    "passes": "torch",
    "threads": 1,
    "checkpoint_every": 1.0,
    "seed": 0,
}
WARM_UP = 0.1
"""Share of the time whose searches are left out of the comparison."""


def resident_bytes() -> int:
    """Memory of this process that is in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def one_search(folder: Path) -> dict[str, Any]:
    """Make one search, and measure the process after it."""
    began = time.process_time()
    session = Session.start(SearchConfig.from_dict(OPTIONS), folder)
    result = session.run()
    seconds = time.process_time() - began
    rounds = [row for row in session.folder.records() if isinstance(row, GenerationRow)]
    births = sum(len(row.births) for row in rounds)
    return {
        "cpu_ms_per_update": 1000 * seconds / result["steps"],
        "updates": result["steps"],
        "births": births,
        "deaths": births - len(result["survivors"]),
        "bank_sha256": result["bank_sha256"],
        "resident_bytes": resident_bytes(),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": len(list(Path("/proc/self/task").iterdir())),
    }


def summary(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """What changed between the first and the last quarter after the warm-up, by medians."""
    last = samples[-1]["minutes"]
    kept = [row for row in samples if row["minutes"] >= WARM_UP * last]
    quarter = max(1, len(kept) // 4)

    def medians(name: str) -> tuple[float, float]:
        values = [row[name] for row in kept]
        return statistics.median(values[:quarter]), statistics.median(values[-quarter:])

    memory, cpu = medians("resident_bytes"), medians("cpu_ms_per_update")
    resident = [row["resident_bytes"] for row in kept]
    return {
        "minutes": last,
        "searches": len(samples),
        **{name: sum(row[name] for row in samples) for name in ("updates", "births", "deaths")},
        "resident_mb_first_and_last_quarter": [round(value / 2**20, 1) for value in memory],
        "resident_change": memory[1] / memory[0] - 1,
        "resident_spread": max(resident) / min(resident) - 1,
        "cpu_ms_per_update_first_and_last_quarter": [round(value, 3) for value in cpu],
        "cpu_change": cpu[1] / cpu[0] - 1,
        "descriptors": sorted({row["descriptors"] for row in kept}),
        "threads": sorted({row["threads"] for row in kept}),
        "different_banks": len({row["bank_sha256"] for row in samples}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    samples: list[dict[str, Any]] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() - began < 60 * given.minutes:
            run = Path(folder) / "run"
            found = one_search(run)
            shutil.rmtree(run)
            samples.append({"minutes": round((time.monotonic() - began) / 60, 3), **found})
            about = {
                "command": f"python -m tests.faults.soak --minutes {given.minutes:g}",
                "commit": commit(),
                "machine": machine(),
                "options": OPTIONS,
            }
            if given.json:  # each time: a soak that is cut short leaves what it has
                given.json.parent.mkdir(parents=True, exist_ok=True)
                write_json(given.json, {**about, "summary": summary(samples), "samples": samples})
            print(f"{samples[-1]['minutes']:6.1f} min  {samples[-1]}", flush=True)
    found = summary(samples)
    flat = abs(found["resident_change"]) <= 0.05 and len(found["descriptors"]) == 1 and found["different_banks"] == 1
    sys.exit(not flat)


if __name__ == "__main__":
    main()
