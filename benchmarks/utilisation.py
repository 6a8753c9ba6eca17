"""Share of this machine's measured peak that training steps get, by operations of products and convolutions alone.

    python benchmarks/utilisation.py --threads 1 --json results/speed/utilisation.json

For the poster's network at its batch of 64 and the default recipe's at 250. Each repetition measures the peak anew
beside the steps; the share is of the precision that the machine is faster in. `ratio` is the poster's.
"""

import argparse
from pathlib import Path

import torch

import _ratio
from graftwork.datasets import cache_folder
from graftwork.execution import set_kernels
from graftwork.genome import seed_genome
from graftwork.kernels import build
from graftwork.runs import keep_memory
from graftwork.training import RECIPES, Precision, calibrate_speed, measure_peak

GOALS = {"paper": 0.4, "default": 0.6}


def share(name: str, precision: Precision, seconds: float) -> tuple[float, float]:
    """Share of the peak, and training FLOPs per second."""
    recipe = RECIPES[name]
    genome = seed_genome(recipe.seed_genome, (3, 32, 32), 10)
    peak = measure_peak(precision, seconds=seconds / 4)
    speed = calibrate_speed(
        genome,
        rules=recipe.rules,
        batch_size=recipe.batch_size,
        augmentation=recipe.augmentation.resolve(genome.input_shape),
        precision=precision,
        seconds=seconds,
    )
    return speed / peak.best, speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="Short and once: checks that it runs, measures nothing.")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_memory()
    seconds, repetitions = (0.05, 1) if given.quick else (2.0, 5)
    found: dict[str, object] = {"threads": given.threads, "quick": given.quick}
    ways = {"torch": None, "compiled": build(cache_folder())}
    for name, goal in GOALS.items():
        rows = {}
        for precision in ("float32", "bfloat16"):
            for passes, kernels in ways.items():
                if passes == "compiled" and kernels is None:
                    continue
                set_kernels(kernels)
                each = [share(name, precision, seconds) for _ in range(repetitions)]
                shares = [one for one, _ in each]
                rows[f"{precision} {passes}"] = {"share": _ratio.spread(shares), "flops_per_second": max(each)[1]}
        fastest = max(rows, key=lambda way: rows[way]["flops_per_second"])
        found[name] = {"goal": goal, "fastest": fastest, "share_of_fastest": rows[fastest]["share"], "ways": rows}
    _ratio.write(given.json, {"ratio": found["paper"]["share_of_fastest"], **found})


if __name__ == "__main__":
    main()
