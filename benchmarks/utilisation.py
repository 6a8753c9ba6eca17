"""Share of this machine's measured peak that training steps get, by operations of products and convolutions alone.

    python benchmarks/utilisation.py --threads 1 --json results/speed/utilisation.json

For the poster's seed and the ten members of an evolved population (`population.py`, each as often as the others) at its
batch of 64, and the default recipe's seed at 250. Each repetition measures the peak anew beside the steps; the share is
of the precision that the machine is faster in. Gradients that nothing asks for (by the images, by the fixed filters of
a stem) are not computed, and not counted. `ratio` is the poster's seed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import _ratio
import population
from graftwork.datasets import cache_folder
from graftwork.machine import calibrate_speed, keep_memory, measure_peak
from graftwork.networks.execution import set_kernels
from graftwork.networks.genome import Genome, Layer, flops_per_item, seed_genome, training_flops
from graftwork.networks.kernels import build
from graftwork.training import RECIPES, Precision, Recipe

GOALS = {"paper": 0.4, "paper evolved": 0.4, "default": 0.6}


def networks(name: str) -> tuple[Recipe, list[Genome]]:
    """A recipe, and what it trains."""
    recipe = RECIPES[name.removesuffix(" evolved")]
    if name.endswith(" evolved"):
        return recipe, population.load()
    return recipe, [seed_genome(recipe.seed_genome, (3, 32, 32), 10)]


def computed_share(genome: Genome) -> float:
    """Of the FLOPs of training, three forward passes: without the gradients that nothing asks for."""
    costs = flops_per_item(genome)
    left_out = 2 * costs[0]  # a stem has fixed filters
    if genome.stem.kind == "none":
        first = genome.body[0]
        assert isinstance(first, Layer)
        _, height, width = genome.input_shape
        mixing = sum(2 * block.hidden_channels * block.out_channels for block in first.blocks) * height * width
        left_out = costs[1] - mixing
    return 1 - left_out / training_flops(genome)


def share(recipe: Recipe, genomes: Sequence[Genome], precision: Precision, seconds: float) -> tuple[float, float]:
    """Share of the peak, and FLOPs per second."""
    peak = measure_peak(precision, seconds=seconds / 4)
    flops, spent = 0.0, 0.0
    for genome in genomes:
        speed = calibrate_speed(
            genome,
            rules=recipe.rules,
            batch_size=recipe.batch_size,
            augmentation=recipe.augmentation.resolve(genome.input_shape),
            precision=precision,
            seconds=seconds / len(genomes),
        )
        flops += training_flops(genome) * computed_share(genome)
        spent += training_flops(genome) / speed
    return flops / spent / peak.best, flops / spent


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
        recipe, genomes = networks(name)
        rows = {}
        for precision in ("float32", "bfloat16"):
            for passes, kernels in ways.items():
                if passes == "compiled" and kernels is None:
                    continue
                set_kernels(kernels)
                each = [share(recipe, genomes, precision, seconds) for _ in range(repetitions)]
                shares = [one for one, _ in each]
                rows[f"{precision} {passes}"] = {"share": _ratio.spread(shares), "flops_per_second": max(each)[1]}
        fastest = max(rows, key=lambda way: rows[way]["flops_per_second"])
        found[name] = {"goal": goal, "fastest": fastest, "share_of_fastest": rows[fastest]["share"], "ways": rows}
    _ratio.write(given.json, {"ratio": found["paper"]["share_of_fastest"], **found})


if __name__ == "__main__":
    main()
