r"""Fashion-MNIST by all defaults within a time: the first 12,000 training images, and the whole test split.

    python benchmarks/fashion_mnist.py --json results/fashion-mnist.json

Each seed is a command of its own on all cores, by the clock; so the machine should be idle. `own_images.py` measures
the same set by processor seconds of one thread.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _own_sets
import _ratio
from _own_sets import SETS
from own_images import made


def measure(data: Path, budget: str, seed: int, place: Path) -> dict[str, Any]:
    """What a search left: the best member and the recommended ensemble."""
    run = place / f"run-{seed}"
    command = [sys.executable, "-m", "graftwork", "search", "--data", str(data), "--budget", budget]
    command += ["--seed", str(seed), "--out", str(run), "--quiet", "--no-report"]
    subprocess.run(command, check=True)
    result, machine = (json.loads((run / name).read_text()) for name in ("result.json", "provenance.json"))
    recommended = next(row for row in result["ensemble"] if row["method"] == result["recommended"])
    kept = ("validation_accuracy", "test_accuracy", "test_interval", "flops")
    return {
        "seed": seed,
        **{key: result[key] for key in ("seconds", "generations", "steps", "training_flops", "test_openings")},
        "best": {key: result["best"][key] for key in kept},
        "recommended": {"method": result["recommended"], **{key: recommended[key] for key in kept}},
        "precision": machine["machine"]["precision"],
        "threads": machine["machine"]["threads"],
    }


def main() -> None:
    """Measure all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="120s")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fashion", type=Path, default=_own_sets.FASHION, help="Folder of Fashion-MNIST's files.")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    _own_sets.FASHION = options.fashion
    with tempfile.TemporaryDirectory() as folder:
        data, _ = made("fashion", SETS["fashion"], Path(folder))
        rows = [measure(data, options.budget, seed, Path(folder)) for seed in range(options.seeds)]
    _ratio.write(options.json, {"rows": rows})


if __name__ == "__main__":
    main()
