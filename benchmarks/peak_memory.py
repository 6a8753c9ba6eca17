"""Compare the estimate of `--max-memory` with measured peaks.

    python benchmarks/peak_memory.py --json results/speed/peak_memory.json

Each network is trained and scored in a process of its own, on noise of CIFAR-10's size or larger. The peak is the
growth of the resident set, as the kernel counts it, from before the network is built.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import _ratio
from _resident import resident
from graftwork.machine import TimedNetwork, choose_kernels, keep_memory
from graftwork.networks.execution import InputTransform, set_kernels
from graftwork.networks.genome import Genome, forward_flops, num_parameters, seed_genome
from graftwork.session import SearchConfig, most_calibration, mutation_of
from graftwork.training import RECIPES, MemoryLimit, Scorer

CLASSES = 10
CASES: tuple[dict[str, Any], ...] = tuple(
    {"recipe": recipe, "growths": growths, "batch_size": size, "passes": passes, "precision": "float32", "side": side}
    for recipe, growths, size, passes, side in (
        ("paper", 0, 64, "torch", 32),
        ("paper", 20, 64, "torch", 32),
        ("paper", 20, 512, "torch", 32),
        ("paper", 20, 512, "compiled", 32),
        ("default", 0, 250, "torch", 32),
        ("default", 0, 250, "compiled", 32),
        ("default", 12, 250, "torch", 32),
        ("default", 12, 250, "compiled", 32),
        ("default", 12, 1000, "compiled", 32),
        ("default", 30, 500, "compiled", 32),
        ("default", 20, 125, "torch", 32),
        ("paper", 40, 256, "compiled", 32),
        ("default", 0, 250, "torch", 64),
        ("default", 6, 250, "compiled", 64),
        ("default", 0, 250, "torch", 128),
        ("default", 6, 250, "compiled", 128),
    )
)


def grown(recipe: str, growths: int, side: int) -> Genome:
    """A seed that was grown at random, so many times."""
    mutation, rng = mutation_of(SearchConfig.from_dict({"recipe": recipe})), np.random.default_rng(1)
    genome = seed_genome(RECIPES[recipe].seed_genome, (3, side, side), CLASSES)
    for _ in range(growths):
        genome = mutation.draw(genome, rng=rng)(genome, rng=rng).child
    return genome


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Train three steps and score once; returns estimate and peak in bytes. Runs in a process of its own."""
    recipe, batch_size, side = RECIPES[case["recipe"]], case["batch_size"], case["side"]
    genome = grown(case["recipe"], case["growths"], side)
    keep_memory()
    torch.set_num_threads(1)
    set_kernels(choose_kernels(case["passes"], torch.device("cpu")))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2000, side, side, 3), generator=generator, dtype=torch.uint8)
    before = resident("VmRSS")
    network = TimedNetwork(
        genome,
        rules=recipe.rules,
        batch_size=batch_size,
        augmentation=recipe.augmentation.resolve(genome.input_shape),
        precision=case["precision"],
    )
    for _ in range(3):
        network.step()
    trained = resident("VmHWM") - before
    transform = InputTransform((0.5,) * 3, (0.25,) * 3)
    calibration = images[: most_calibration(recipe.num_calibration, genome.input_shape)]
    scorer = Scorer(images, torch.zeros(2000), transform=transform, calibration=calibration, batch_size=500)
    scorer.evaluate([network.member])
    limit = MemoryLimit(0, batch_size, max(500, len(calibration)), recipe.rules, case["precision"], case["passes"])
    found = {"parameters": num_parameters(genome), "flops": forward_flops(genome), "estimate": limit.needed(genome)}
    return {**case, **found, "trained": trained, "peak": resident("VmHWM") - before}


def main() -> None:
    """Measure all cases, or the one that is given as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(json.loads(options.case))))
        return
    rows = []
    for case in CASES:
        command = [sys.executable, __file__, "--case", json.dumps(case)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = json.loads(text)
        row["ratio"] = round(row["estimate"] / row["peak"], 3)
        rows.append(row)
        print(json.dumps(row), flush=True)
    _ratio.write(options.json, {"rows": rows})


if __name__ == "__main__":
    main()
