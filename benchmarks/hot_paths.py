"""Where the two hottest paths spend their time, before and after: a training step, and the scoring of a population.

    python benchmarks/hot_paths.py --threads 1 --json results/speed/hot_paths.json --tables results/speed/hot_paths.md

A step of the default recipe's first network (batch 250) and of the poster's (batch 64), on noise: before by PyTorch's
passes, after by the compiled ones. Scoring of the evolved population (``population.json``): before member by member,
after by the trie of genomes. Before and after take turns, without any instrument: that is `ratio`, of the default
step, and every ``ratio`` below it.

Then both run again with a clock around each operation of PyTorch, on the way back too, and around each compiled pass:
``operations``, with the rate of products and convolutions; ``weight_gradients`` repeats the convolutions of the way
back for the filters' gradients alone. The tables of torch.profiler stand beside them in ``--tables``: it slows
operations on large new tensors down several times over, so read its shares with care and take times from the clocks.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import _ratio
import population
from graftwork.datasets import cache_folder
from graftwork.machine import keep_memory
from graftwork.networks import bind
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.execution import InputTransform, using_kernels
from graftwork.networks.genome import seed_genome
from graftwork.networks.kernels import Kernels, build
from graftwork.training import RECIPES, BankOptimizer, BatchStream, Scorer, Trainer

TRANSFORM = InputTransform((0.5,) * 3, (0.25,) * 3)
PASSES = ("normaliser", "forward", "backward", "mix", "mix_backward", "add", "pool", "unpool")
Way = Callable[[], object]


class Clocks(TorchDispatchMode):
    """A clock around every operation of PyTorch; those inside a compiled pass count as the pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.flops: dict[str, int] = defaultdict(int)
        self.gradients: list[tuple[Any, ...]] = []
        self.keep_gradients = False
        self._inside = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._inside:
            return func(*args, **kwargs)
        began = perf_counter()
        out = func(*args, **kwargs)
        self._add(f"torch {func.overloadpacket.__name__}", perf_counter() - began)
        if func.overloadpacket in flop_registry:
            name = f"torch {func.overloadpacket.__name__}"
            self.flops[name] += flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
        if self.keep_gradients and func.overloadpacket is torch.ops.aten.convolution_backward and args[-1][1]:
            self.gradients.append(args)
        return out

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name].append(seconds)

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """A compiled pass with a clock around it."""

        def run(*arguments: Any) -> Any:
            self._inside, began = True, perf_counter()
            try:
                return call(*arguments)
            finally:
                self._add(f"pass {name}", perf_counter() - began)
                self._inside = False

        return run

    def table(self, runs: int, total: float) -> list[dict[str, Any]]:
        """Operations, the longest first, a run; what lies between them last."""
        rows = []
        for name, values in self.seconds.items():
            row = {"operation": name, "calls": len(values) / runs, "milliseconds": 1e3 * sum(values) / runs}
            if self.flops[name]:
                row["gflop_per_second"] = self.flops[name] / sum(values) / 1e9
            rows.append(row)
        rows.sort(key=lambda row: -row["milliseconds"])
        rest = 1e3 * total / runs - sum(row["milliseconds"] for row in rows)
        return [*rows, {"operation": "between operations", "calls": 1.0, "milliseconds": rest}]


class Passes:
    """Compiled kernels with clocks."""

    def __init__(self, kernels: Kernels, clocks: Clocks) -> None:
        for name in PASSES:
            setattr(self, name, clocks.timed(name, getattr(kernels, name)))


@contextmanager
def clocked(kernels: Kernels | None) -> Iterator[Clocks]:
    """Clocks on everything inside."""
    clocks = Clocks()
    with using_kernels(None if kernels is None else Passes(kernels, clocks)), clocks:
        yield clocks


def operations(way: Way, kernels: Kernels | None, runs: int) -> list[dict[str, Any]]:
    """Time by operation."""
    with clocked(kernels) as clocks:
        began = perf_counter()
        for _ in range(runs):
            way()
        total = perf_counter() - began
    return clocks.table(runs, total)


def weight_gradients(way: Way, kernels: Kernels | None, runs: int) -> dict[str, Any]:
    """Milliseconds of the filters' gradients alone in one step, and the rate of each."""
    with clocked(kernels) as clocks:
        clocks.keep_gradients = True
        way()
    rows, convolution = [], torch.ops.aten.convolution_backward
    for args in clocks.gradients:
        masked = (*args[:-1], [False, True, False])
        seconds = []
        for _ in range(runs):
            began = perf_counter()
            with torch.no_grad():
                out = convolution(*masked)
            seconds.append(perf_counter() - began)
        flops = flop_registry[convolution](*masked, out_val=out)
        row = {"input": list(args[1].shape), "filters": list(args[2].shape), "milliseconds": 1e3 * median(seconds)}
        rows.append({**row, "gflop_per_second": flops / median(seconds) / 1e9})
    return {"milliseconds": sum(row["milliseconds"] for row in rows), "convolutions": rows}


def profiled(way: Way, runs: int) -> str:
    """The table of torch.profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(runs):
            way()
    return found.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=45)


def step(recipe_name: str, precision: str) -> Way:
    """A training step on noise; at rate 0, so that noise can't make the loss diverge."""
    recipe, generator = RECIPES[recipe_name], torch.Generator().manual_seed(0)
    genome = seed_genome(recipe.seed_genome, (3, 32, 32), 10)
    images = torch.randint(0, 256, (recipe.batch_size, 32, 32, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (len(images),), generator=generator)
    bank = BlockBank()
    grow_bank(bank, genome, generator=generator, images=TRANSFORM(images))
    batches = BatchStream(
        images, labels, torch.arange(len(images)), batch_size=recipe.batch_size, seed=0, transform=TRANSFORM,
        augmentation=recipe.augmentation.resolve(genome.input_shape),
    )  # fmt: skip
    optimizer, member = BankOptimizer(bank, recipe.rules), bind(genome, bank)
    trainer = Trainer(optimizer, batches=batches, schedule=lambda progress: 0.0, precision=precision)
    return lambda: trainer.step(member, 0, 0.0)


def scoring(num_images: int, num_calibration: int, precision: str) -> dict[str, Way]:
    """Both ways of scoring the evolved population."""
    genomes, generator = population.load(), torch.Generator().manual_seed(0)
    bank = population.grow(genomes)
    members = [bind(genome, bank) for genome in genomes]
    images = torch.randint(0, 256, (num_images, 32, 32, 3), generator=generator, dtype=torch.uint8)
    labels = torch.zeros(num_images, dtype=torch.int64)
    calibration = images[:num_calibration]
    scorer = Scorer(images, labels, transform=TRANSFORM, calibration=calibration, precision=precision)
    return {
        "member by member": lambda: [scorer.score([member]) for member in members],
        "by the trie": lambda: scorer.score(members),
    }


def compared(ways: dict[str, tuple[Way, Kernels | None]], *, repetitions: int, runs: int) -> tuple[dict[str, Any], str]:
    """Before and after: bare seconds in turns, then operations and the profiler's tables."""

    def bare(way: Way, kernels: Kernels | None) -> Way:
        def run() -> None:
            with using_kernels(kernels):
                way()

        return run

    seconds = _ratio.times({name: bare(*pair) for name, pair in ways.items()}, repetitions)
    before, after = ways
    found: dict[str, Any] = {"ratio": _ratio.ratio(seconds[before], seconds[after]), "seconds": seconds}
    found["operations"], text = {}, ""
    for name, (way, kernels) in ways.items():
        found["operations"][name] = operations(way, kernels, runs)
        with using_kernels(kernels):
            text += f"### {name}\n\n{markdown(found['operations'][name])}\n\n```\n{profiled(way, runs)}```\n\n"
    return found, text


def markdown(rows: list[dict[str, Any]], most: int = 16) -> str:
    """The longest operations."""
    lines = ["| operation | calls | ms | GFLOP/s |", "|---|---|---|---|"]
    for row in [*rows[: most - 1], rows[-1]]:
        rate = f"{row['gflop_per_second']:.0f}" if "gflop_per_second" in row else ""
        lines.append(f"| {row['operation']} | {row['calls']:.0f} | {row['milliseconds']:.2f} | {rate} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--quick", action="store_true", help="Once, few images: checks that it runs, measures nothing.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tables", type=Path, help="Markdown file for all tables")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_memory()
    kernels = build(cache_folder())
    if kernels is None:
        raise SystemExit("hot_paths.py compares compiled passes with PyTorch's; there is no C compiler here")
    repetitions, runs, num_images, num_calibration = (1, 1, 20, 10) if given.quick else (15, 10, 2000, 1000)
    found: dict[str, Any] = {"threads": given.threads, "precision": given.precision, "quick": given.quick}
    texts = []
    for name in ("paper",) if given.quick else ("default", "paper"):
        way = step(name, given.precision)
        sides = {"PyTorch's passes": (way, None), "compiled passes": (way, kernels)}
        found[f"step {name}"], text = compared(sides, repetitions=repetitions, runs=runs)
        found[f"step {name}"]["weight_gradients"] = weight_gradients(way, kernels, runs)
        texts.append(f"## A training step, recipe {name}\n\n{text}")
    sides = {name: (way, kernels) for name, way in scoring(num_images, num_calibration, given.precision).items()}
    found["scoring"], text = compared(sides, repetitions=min(repetitions, 5), runs=1)
    texts.append(f"## Scoring\n\n{text}")
    first = next(entry for key, entry in found.items() if key.startswith("step"))
    _ratio.write(given.json, {"ratio": first["ratio"], **found})
    if given.tables is not None:
        given.tables.parent.mkdir(parents=True, exist_ok=True)
        head = f"# Profiles\n\n{given.threads} threads, {given.precision}; by `benchmarks/hot_paths.py`.\n\n"
        given.tables.write_text(head + "".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
