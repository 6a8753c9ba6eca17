"""Would `torch.compile` be repaid inside a search? Seconds to compile a member, and what a step then saves.

    python benchmarks/compiling.py --threads 1 --json results/speed/compiling.json

Each network, the recipe's seed and a member three growths later, does forward and backward on a batch of noise in
three ways, which take turns: ours (compiled passes), the same network as plain modules (``naive.py``, channels-last),
and those modules under `torch.compile`, whose first call is timed by itself in a process with empty caches of its own.
``updates_to_repay`` are the steps after which compiling has paid for itself against ours; ``null``: never, as a step
is not faster. A search compiles every member anew in every generation. `ratio` is that of the default recipe's seed:
ours over torch.compile's, above 1 a compiled step is faster.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import _ratio
import naive
from graftwork.datasets import cache_folder
from graftwork.machine import keep_memory
from graftwork.networks import Member, bind
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.execution import set_kernels
from graftwork.networks.genome import Genome, seed_genome
from graftwork.networks.kernels import build
from graftwork.session import SearchConfig, mutation_of
from graftwork.training import RECIPES, in_precision

GROWTHS = 3


def genome_of(recipe: str, growths: int) -> Genome:
    """The recipe's seed, grown some times by its own mutation."""
    config, rng = SearchConfig.from_dict({"data": "digits", "recipe": recipe}), np.random.default_rng(0)
    mutation = mutation_of(config)
    genome = seed_genome(config.recipe.seed_genome, (3, 32, 32), 10)
    for _ in range(growths):
        genome = mutation.draw(genome, rng=rng)(genome, rng=rng).child
    return genome


def networks(recipe: str, growths: int, batch: int) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """Our member, the same as plain modules, and a batch of noise with its labels."""
    genome, generator = genome_of(recipe, growths), torch.Generator().manual_seed(0)
    bank = BlockBank()
    x = torch.randn(batch, 3, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
    grow_bank(bank, genome, generator=generator, images=x)
    plain = naive.build([genome], bank)[0].to(memory_format=torch.channels_last)
    return bind(genome, bank).train(), plain.train(), x, torch.arange(batch) % 10


def passes(network: nn.Module, x: Tensor, labels: Tensor, precision: Any) -> Callable[[], None]:
    """Forward and backward."""
    bound = network.parameters_by_key().values() if isinstance(network, Member) else network.parameters()
    parameters = [p for p in bound if p.requires_grad]

    def run() -> None:
        with in_precision(precision, x.device):
            logits = network(x)
        torch.autograd.grad(F.cross_entropy(logits.float(), labels), parameters, allow_unused=True)

    return run


def child(recipe: str, growths: int, batch: int, precision: str, repetitions: int) -> dict[str, Any]:
    """One network, in a process of its own."""
    keep_memory()
    set_kernels(build(cache_folder()))
    ours, plain, x, labels = networks(recipe, growths, batch)
    ways = {"ours": passes(ours, x, labels, precision), "plain modules": passes(plain, x, labels, precision)}
    ways["torch.compile"] = passes(torch.compile(plain), x, labels, precision)
    began = perf_counter()
    ways["torch.compile"]()
    compiled = perf_counter() - began
    seconds = _ratio.times(ways, repetitions)
    saved = median(seconds["ours"]) - median(seconds["torch.compile"])
    return {
        "seconds_to_compile": compiled,
        "seconds": {name: _ratio.spread(values) for name, values in seconds.items()},
        "ratio": _ratio.ratio(seconds["ours"], seconds["torch.compile"]),
        "ratio_to_plain_modules": _ratio.ratio(seconds["plain modules"], seconds["torch.compile"]),
        "updates_to_repay": compiled / saved if saved > 0 else None,
    }


def measured(recipe: str, growths: int, batch: int, precision: str, threads: int, repetitions: int) -> dict[str, Any]:
    arguments = [recipe, str(growths), str(batch), precision, str(repetitions)]
    command = [sys.executable, __file__, "--threads", str(threads), "--child", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{recipe}, {growths} growths, {precision}: {found}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--quick", action="store_true", help="Small and once: checks that it runs, measures nothing.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.child is not None:
        recipe, growths, batch, precision, repetitions = given.child
        print(json.dumps(child(recipe, int(growths), int(batch), precision, int(repetitions))))
        return
    cases = [("paper", 0)] if given.quick else [(r, g) for r in ("default", "paper") for g in (0, GROWTHS)]
    found = {}
    for recipe, growths in cases:
        batch = 4 if given.quick else RECIPES[recipe].batch_size
        each = measured(recipe, growths, batch, given.precision, given.threads, 1 if given.quick else 15)
        found[f"{recipe}, {growths} growths"] = each
    first = next(iter(found.values()))
    known = {"threads": given.threads, "precision": given.precision, "quick": given.quick}
    _ratio.write(given.json, {"ratio": first["ratio"], **known, "networks": found})


if __name__ == "__main__":
    main()
