"""Share of a step that goes into making its batch: what a thread that prepares the next one could save at most.

    python benchmarks/batches.py --json results/speed/batches.json

For each recipe's first network on 32 x 32 images, by one thread, in the faster precision and passes of this machine.
Images are noise, picked at random from 45,000; times are of the processor (`time.thread_time`), so that other work on
the machine counts little. `share` is of a whole step, batch included; `shrunk` with resizing to three quarters, as the
default recipe does in its first part.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import _ratio
from graftwork.datasets import cache_folder
from graftwork.machine import TimedNetwork, keep_memory, measure_precision
from graftwork.networks.execution import InputTransform, set_kernels
from graftwork.networks.genome import seed_genome
from graftwork.networks.kernels import build
from graftwork.training import RECIPES, BatchStream, Recipe, shrink

SHAPE = (3, 32, 32)


def processor_seconds(call: Callable[[], object]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


def stream(recipe: Recipe, images: int) -> BatchStream:
    channels, height, width = SHAPE
    pixels = np.random.default_rng(0).integers(0, 256, (images, height, width, channels), dtype=np.uint8)
    return BatchStream(
        pixels,
        np.zeros(images, dtype=np.int64),
        np.arange(images),
        batch_size=recipe.batch_size,
        seed=0,
        transform=InputTransform((0.5,) * channels, (0.25,) * channels),
        augmentation=recipe.augmentation.resolve(SHAPE),
    )


def shares(recipe: Recipe, *, images: int, steps: int) -> dict[str, Any]:
    genome = seed_genome(recipe.seed_genome, SHAPE, 10)
    options = {"rules": recipe.rules, "batch_size": recipe.batch_size}
    batches, kernels = stream(recipe, images), build(cache_folder())
    probe = TimedNetwork(genome, **options)
    machine = measure_precision(probe.member, probe.trainer.batches.batch(0), kernels=kernels)
    set_kernels(kernels if machine.passes == "compiled" else None)
    network = TimedNetwork(genome, **options, precision=machine.precision)
    network.trainer.batches = batches
    rows: dict[str, list[float]] = {"batch_seconds": [], "shrink_seconds": [], "step_seconds": []}
    size = (SHAPE[1] * 3 // 4, SHAPE[2] * 3 // 4)
    for number in range(steps + 2):
        images_made = batches.batch(number)[0]
        measured = (
            processor_seconds(lambda number=number: batches.batch(number)),  # type: ignore[misc]
            processor_seconds(lambda x=images_made: shrink(x, size)),  # type: ignore[misc]
            processor_seconds(network.step),
        )
        if number >= 2:  # the first steps prepare kernels
            for row, seconds in zip(rows.values(), measured, strict=True):
                row.append(seconds)
    best = {name: min(row) for name, row in rows.items()}
    return {
        "precision": machine.precision,
        "passes": machine.passes,
        "batch_size": recipe.batch_size,
        **{name: _ratio.spread(row) for name, row in rows.items()},
        "share": best["batch_seconds"] / best["step_seconds"],
        "shrunk": (best["batch_seconds"] + best["shrink_seconds"]) / best["step_seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Short: checks that it runs, measures little.")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    size = {"images": 1000, "steps": 2} if given.quick else {"images": 45_000, "steps": 20}
    found = {name: shares(recipe, **size) for name, recipe in RECIPES.items()}
    _ratio.write(given.json, {"quick": given.quick, **found})


if __name__ == "__main__":
    main()
