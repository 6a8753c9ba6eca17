"""What a large population costs: bytes, and seconds of mutation, scoring and checkpointing, for M = 10, 100, 1,000.

    python benchmarks/memory.py --json results/speed/memory.json

Populations of one lineage grow by the paper recipe's mutations from the poster's network; each size and each seed runs
in a process of its own, on one thread and on noise for images. `ratio` is what the process grew by (freed memory given
back), over the bytes of the population's unique parameters and statistics, at the largest size.

`slopes` are exponents of growth, fitted through all sizes on logarithmic axes: 1 is linear. Costs are held against the
number of unique blocks; those of scoring also against the FLOPs of the trie, since members get deeper as a lineage gets
longer, so that a block has more layers to be scored with. `last` is the exponent between the two largest sizes, where
what any population costs counts least.
"""

import argparse
import ctypes
import gc
import json
import math
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

import _ratio
from _resident import reset_peak, resident
from graftwork.evolution import Population, SearchState
from graftwork.evolution.mutation import R2RMutation
from graftwork.evolution.selection import GreedySelector
from graftwork.evolution.strategies import Neuroevolution
from graftwork.networks.execution import InputTransform
from graftwork.networks.genome import seed_genome
from graftwork.runs import RunFolder, pack_state
from graftwork.training import RECIPES, BankOptimizer, BatchStream, Scorer, Trainer

ALLOWED = 1.3
TRANSFORM = InputTransform((0.5,) * 3, (0.25,) * 3)


def held() -> int:
    """Bytes of this process that lie in memory, after garbage and free pages are given back (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident("VmRSS")


def most(*, reset: bool = False) -> int:
    """The most bytes that this process had in memory since the last reset (Linux)."""
    if reset:
        reset_peak()
    return resident("VmHWM")


def unique_bytes(tensors: Iterable[Tensor]) -> int:
    """Each piece of memory once, however many tensors look at it, and whole, however little they look at."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def grow(size: int, seed: int) -> tuple[Population, np.random.Generator]:
    """A lineage from the poster's network, mutated as the paper's recipe does."""
    rng, population = np.random.default_rng(seed), Population()
    genome, generator = seed_genome("poster", (3, 32, 32), 10), torch.Generator().manual_seed(seed)
    population.add_seed(genome, generator=generator, initialisation="random")
    R2RMutation()(population, size, rng=rng, generation=1)
    return population, rng


def scored(population: Population, images: Tensor) -> tuple[float, Scorer]:
    """Seconds of one scoring."""
    scorer = Scorer(images, torch.zeros(len(images), dtype=torch.int64), transform=TRANSFORM, calibration=images)
    began = perf_counter()
    scorer.score(list(population))
    return perf_counter() - began, scorer


def trained(population: Population, images: Tensor) -> tuple[BankOptimizer, int, int]:
    """Train the last member by one step; bytes of its weights, and of all gradients and moments then."""
    recipe, member = RECIPES["paper"], list(population)[-1]
    optimizer = BankOptimizer(population.bank, recipe.rules)
    rows, labels = torch.arange(len(images)), torch.zeros(len(images), dtype=torch.int64)
    batches = BatchStream(images, labels, rows, batch_size=len(images), seed=0, transform=TRANSFORM)
    Trainer(optimizer, batches=batches, schedule=recipe.make_schedule()).step(member, 0, 0.0)
    gradients = [p.grad for _, p, _ in population.bank.parameters() if p.grad is not None]
    bound = unique_bytes(member.parameters_by_key().values())
    return optimizer, bound, unique_bytes([*gradients, *optimizer.state()[0].values()])


def checkpoint(population: Population, rng: np.random.Generator, optimizer: BankOptimizer) -> dict[str, float]:
    """Seconds and bytes of one, and how far memory rose for it."""
    strategy = Neuroevolution(selector=GreedySelector(), mutate=R2RMutation())
    before = held()
    most(reset=True)
    with tempfile.TemporaryDirectory() as place:
        folder, began = RunFolder(Path(place)), perf_counter()
        path = folder.save_checkpoint("search", 0, *pack_state(SearchState(population, rng), optimizer, strategy))
        seconds = perf_counter() - began
        size = sum(file.stat().st_size for file in path.iterdir())
    return {"checkpoint_seconds": seconds, "checkpoint_bytes": size, "checkpoint_peak_bytes": most() - before}


def traced(size: int, seed: int) -> int:
    """Bytes of Python objects alone, in a second population: tracing slows everything down."""
    tracemalloc.start()
    population, _ = grow(size, seed)
    found = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del population
    return found


def measure(size: int, seed: int, num_images: int) -> dict[str, float]:
    """One population, in this process."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num_images, 32, 32, 3), dtype=torch.uint8, generator=generator)
    warm, rng = grow(3, seed)
    scored(warm, images)  # what the first time loads and compiles is not the population's
    checkpoint(warm, rng, trained(warm, images)[0])
    before, began = held(), perf_counter()
    population, rng = grow(size, seed)
    mutation = perf_counter() - began
    resident = held() - before
    weights = unique_bytes(p for _, p, _ in population.bank.parameters())
    found = {"members": size, "blocks": len(population.bank), "mutation_seconds": mutation}
    found |= {"parameter_bytes": weights, "resident_bytes": resident}
    found |= {"statistics_bytes": unique_bytes(b for member in population for b in member.buffers())}
    seconds, scorer = scored(population, images)
    found |= {"scoring_seconds": seconds, "scoring_flops": scorer.flops(population.genomes)}
    found |= {"statistics_bytes_after_scoring": unique_bytes(b for member in population for b in member.buffers())}
    found |= {"resident_bytes_after_scoring": held() - before}
    optimizer, bound, extra = trained(population, images)
    found |= {"one_members_bytes": bound, "gradient_and_moment_bytes_after_its_step": extra}
    found |= checkpoint(population, rng, optimizer)
    return {**found, "python_object_bytes": traced(size, seed)}


def slopes(rows: list[dict[str, float]], cost: str, against: str) -> dict[str, float]:
    """Exponent of a cost's growth: through all sizes, and between the two largest."""
    sizes = sorted({row["members"] for row in rows})
    points = [
        tuple(math.log(median(row[key] for row in rows if row["members"] == size)) for key in (against, cost))
        for size in sizes
    ]
    (x, y), (x_last, y_last) = points[-2:]
    return {"all": float(np.polyfit(*zip(*points, strict=True), 1)[0]), "last": (y_last - y) / (x_last - x)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="seeds of each size")
    parser.add_argument("--quick", action="store_true", help="Small populations, once: checks that it runs.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    num_images = 8 if given.quick else 64
    if given.size is not None:
        print(json.dumps(measure(given.size, given.seed, num_images)))
        return
    rows = []
    for seed in range(1 if given.quick else given.repetitions):
        for size in (5, 20, 60) if given.quick else (10, 100, 1000):
            command = [sys.executable, __file__, "--size", str(size), "--seed", str(seed)]
            command += ["--quick"] if given.quick else []
            rows.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
            print(f"{size} members, seed {seed}: {rows[-1]['resident_bytes'] / 1e6:.1f} MB", file=sys.stderr)
    largest = [row for row in rows if row["members"] == max(row["members"] for row in rows)]
    shares = [row["resident_bytes"] / (row["parameter_bytes"] + row["statistics_bytes"]) for row in largest]
    costs = ("resident_bytes", "python_object_bytes", "mutation_seconds", "scoring_seconds", "checkpoint_seconds")
    fitted = {f"{cost} by blocks": slopes(rows, cost, "blocks") for cost in costs}
    fitted["scoring_seconds by scoring_flops"] = slopes(rows, "scoring_seconds", "scoring_flops")
    _ratio.write(
        given.json,
        {
            "quick": given.quick,
            "ratio": {**_ratio.spread(shares), "allowed": ALLOWED},
            "python_object_bytes_a_member": _ratio.spread([r["python_object_bytes"] / r["members"] for r in largest]),
            "slopes": fitted,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
