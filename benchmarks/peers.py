"""What a user would pick instead, at equal FLOPs on the same machine: accuracy and seconds of each way.

    python benchmarks/peers.py --data PATH-TO-CIFAR10 --threads 2 --json results/speed/peers.json

* ``shared``: a search by this package (the paper's recipe).
* ``alone``: the members that this search ended with, each trained alone from new weights, in plain PyTorch
  (``naive.py``). That they are known beforehand is a present.
* ``supernet``: shared training as it is written by hand: cells of plain modules with several kernel sizes or none, one
  path drawn for each batch; then ten random paths, statistics made anew for each.
* ``neps``: ten networks of such cells, each trained alone, chosen by NePS (Bayesian optimisation, its default), where
  that is installed. It asks for torchvision and for older releases; NePS 0.17.0 ran with torch 2.13.0 in an environment
  of its own beside torch: ``pip install --no-deps neural-pipeline-search botorch==0.12.0 gpytorch==1.13
  linear_operator==0.5.3`` and, likewise, ``ifbo pymoo submitit pyro-ppl pyro-api jaxtyping wadler-lindig opt_einsum
  multipledispatch pyre-extensions typing-inspect more-itertools portalocker cma autograd networkx pandas seaborn
  tensorboard absl-py``.

All train by Adam at the paper's rate, on batches of 64 without augmentation, and spend the same FLOPs on training and
scoring together (counted from the genome, or by PyTorch's own counter, three forward passes a training step). Each
picks its best by the validation split and is judged on held-out images that nothing has seen; the test split stays
shut. `ratio` is seconds of training alone over ours. Seeds that stand in the JSON file are not run again.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import _ratio
import naive
import population
from graftwork.evolution import search
from graftwork.machine import keep_memory
from graftwork.networks.genome import TRAINING_FACTOR, Genome, forward_flops
from graftwork.session import Problem, SearchConfig, parse_budget, prepare
from graftwork.training import RECIPES, Scorer

PAPER = RECIPES["paper"]
RATE = PAPER.rules["filter"]
CANDIDATES = 10
KERNELS = ((1, 3, 5), (0, 1, 3, 5)) * 3
"""Choices of each cell, 0: none; two cells at each of three resolutions."""
WIDTHS = (16, 32, 64)
Route = tuple[int, ...]


def way(width_in: int, width: int, kernel: int) -> nn.Sequential:
    """Convolution, norm, σ and 1×1 convolution."""
    convolution = nn.Conv2d(width_in, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1))


class Cell(nn.Module):
    """A residual, padded where channels grow, plus a `way` of one of several kernel sizes."""

    def __init__(self, width_in: int, width: int, kernels: Sequence[int]) -> None:
        super().__init__()
        self.more = width - width_in
        self.ways = nn.ModuleDict({str(kernel): way(width_in, width, kernel) for kernel in kernels if kernel})

    def forward(self, x: Tensor, kernel: int) -> Tensor:
        out = F.pad(x, (0, 0, 0, 0, 0, self.more))
        return out + self.ways[str(kernel)](x) if kernel else out


class Cells(nn.Module):
    """A network of cells; with several kernels a cell it is a supernet, and ``path`` says which of them run."""

    def __init__(self, kernels: Sequence[Sequence[int]], shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        widths = [shape[0], *(width for width in WIDTHS for _ in range(2))]
        self.cells = nn.ModuleList(
            Cell(before, width, sizes) for before, width, sizes in zip(widths, widths[1:], kernels, strict=False)
        )
        features = WIDTHS[-1] * (shape[1] // 8) * (shape[2] // 8)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, classes))
        self.path: Route = tuple(sizes[0] for sizes in kernels)

    def forward(self, x: Tensor) -> Tensor:
        for number, (cell, kernel) in enumerate(zip(self.cells, self.path, strict=True)):
            x = cell(x, kernel)
            x = F.max_pool2d(x, 2) if number % 2 else x
        return self.head(x)


class OnePath(nn.Module):
    """A path through a supernet, as a network."""

    def __init__(self, cells: Cells, path: Route) -> None:
        super().__init__()
        self.cells, self.path = cells, path

    def forward(self, x: Tensor) -> Tensor:
        self.cells.path = self.path
        return self.cells(x)


class Job:
    """The data, and what may be spent, of one seed.

    Args:
        problem: Split into training, validation and held-out (blend) images.
        budget: FLOPs of each way.
        num_calibration: Images that statistics are made from.
        seed: Of weights, draws and batches.
    """

    def __init__(self, problem: Problem, *, budget: float, num_calibration: int, seed: int) -> None:
        self.problem, self.budget, self.seed = problem, budget, seed
        self.shape, self.classes = problem.input_shape, len(problem.dataset.class_names)
        self.pictures = naive.pictures(problem, problem.splits.train)
        self.calibration = self._ready(problem.calibration_rows(num_calibration))
        self.validation = self._ready(problem.splits.validation)
        self.held_out = self._ready(problem.splits.blend)
        self.num_scored = len(self.calibration) + len(self.validation)

    def _ready(self, rows: np.ndarray) -> Tensor:
        return self.problem.transform(self.problem.images(rows)).contiguous()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless; shuffled anew each epoch."""
        for epoch in count():
            yield from naive.loader(self.pictures, batch_size=PAPER.batch_size, seed=1000 * self.seed + epoch)

    def accuracies(self, members: Sequence[nn.Module], images: Tensor, rows: np.ndarray) -> list[float]:
        predicted = naive.score(members, self.calibration, images)
        return [float(hits) for hits in (predicted == self.problem.labels(rows)).float().mean(1)]

    def judged(self, members: Sequence[nn.Module], began: float) -> dict[str, float]:
        """The best by validation, on held-out images, and the seconds until it was known which is the best."""
        found = self.accuracies(members, self.validation, self.problem.splits.validation)
        best, seconds = int(np.argmax(found)), perf_counter() - began
        (accuracy,) = self.accuracies([members[best]], self.held_out, self.problem.splits.blend)
        return {"validation": found[best], "held_out": accuracy, "seconds": seconds}


def train(job: Job, network: nn.Module, flops: float, cost: Callable[[], float]) -> float:
    """Train until the next step might not be covered; ``cost`` prepares the step and says its FLOPs for one image.

    Returns:
        What was spent.
    """
    adam = torch.optim.Adam(network.parameters(), lr=RATE.lr, weight_decay=RATE.weight_decay)
    spent, factor = 0.0, TRAINING_FACTOR * PAPER.batch_size
    for x, y in job.batches():
        step = factor * cost()
        if spent + step > flops:
            break
        naive.train_step(network, adam, x, y)
        spent += step
    return spent


def counted(network: nn.Module, shape: tuple[int, int, int]) -> float:
    """FLOPs of a forward pass over one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, *shape))
    return float(counter.get_total_flops())


def shared(job: Job, options: dict[str, Any]) -> tuple[dict[str, Any], list[Genome]]:
    """A search by the package; also the genomes that it ended with."""
    began = perf_counter()
    setup = prepare(SearchConfig.from_dict({**options, "seed": job.seed}), problem=job.problem)
    last = list(search(setup.state, **setup.parts))[-1]
    seconds = perf_counter() - began
    rows, survivors = job.problem.splits.blend, {name: setup.population[name] for name in last.survivors}
    held_out = Scorer(
        job.problem.images(rows), job.problem.labels(rows), transform=job.problem.transform,
        calibration=job.problem.images(job.problem.calibration_rows(len(job.calibration))),
        precision=setup.machine.precision,
    )  # fmt: skip
    best = max(survivors, key=lambda name: last.accuracies[name])
    found = {"validation": last.accuracies[best], "held_out": float(held_out.score([survivors[best]]).mean())}
    births = {birth.id: birth.genome for birth in setup.population.lineage}
    return {**found, "seconds": seconds, "flops": setup.state.spent_flops}, [births[name] for name in last.members]


def alone(job: Job, genomes: Sequence[Genome]) -> dict[str, Any]:
    """Every genome by itself, from new weights, with an equal share of the FLOPs."""
    began, members, spent = perf_counter(), [], 0.0
    for number, genome in enumerate(genomes):
        bank = population.grow([genome], seed=job.seed * CANDIDATES + number)
        (network,) = naive.build([genome], bank)
        scoring = forward_flops(genome) * job.num_scored
        flops = job.budget / len(genomes) - scoring
        spent += scoring + train(job, network, flops, lambda genome=genome: forward_flops(genome))
        members.append(network)
    return {**job.judged(members, began), "flops": spent}


def drawn(rng: np.random.Generator) -> Route:
    return tuple(int(rng.choice(sizes)) for sizes in KERNELS)


def supernet(job: Job) -> dict[str, Any]:
    """One path of shared plain modules a batch; then the best of ten paths."""
    began, rng = perf_counter(), np.random.default_rng(job.seed)
    torch.manual_seed(job.seed)
    network = Cells(KERNELS, job.shape, job.classes)
    known: dict[Route, float] = {}

    def price(path: Route) -> float:
        network.path = path
        if path not in known:
            known[path] = counted(network, job.shape)
        return known[path]

    paths = [drawn(rng) for _ in range(CANDIDATES)]
    scoring = job.num_scored * sum(map(price, paths))
    spent = scoring + train(job, network, job.budget - scoring, lambda: price(drawn(rng)))
    return {**job.judged([OnePath(network, path) for path in paths], began), "flops": spent}


def neps(job: Job) -> dict[str, Any]:
    """Ten networks that NePS chooses, one after the other, each trained alone."""
    if find_spec("neps") is None:
        return {"missing": "neural-pipeline-search is not installed"}
    import neps as package

    names = [f"cell_{number}" for number in range(len(KERNELS))]
    choices = {name: package.Categorical(sizes) for name, sizes in zip(names, KERNELS, strict=True)}
    space = type("Space", (package.PipelineSpace,), choices)
    members: list[nn.Module] = []
    spent = 0.0

    def evaluate(**genes: int) -> float:
        nonlocal spent
        network = Cells([(genes[name],) for name in names], job.shape, job.classes)
        price = counted(network, job.shape)
        scoring = price * job.num_scored
        spent += scoring + train(job, network, job.budget / CANDIDATES - scoring, lambda: price)
        members.append(network)
        return 1 - job.accuracies([network], job.validation, job.problem.splits.validation)[0]

    random.seed(job.seed)
    np.random.seed(job.seed)  # noqa: NPY002 (NePS draws from the global generators)
    torch.manual_seed(job.seed)
    began = perf_counter()
    with tempfile.TemporaryDirectory() as place:
        options = {"root_directory": f"{place}/neps", "total_evaluations_to_spend": CANDIDATES}
        package.run(evaluate_pipeline=evaluate, pipeline_space=space(), **options)
    seconds = perf_counter() - began
    found = job.judged(members, began) | {"seconds": seconds}  # they are scored once more, off the clock
    return {**found, "flops": spent, "version": version("neural-pipeline-search")}


def summary(seeds: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Each other way against ours, seed by seed."""
    found: dict[str, Any] = {}
    for name in ("alone", "supernet", "neps"):
        pairs = [(rows[name], rows["shared"]) for rows in seeds.values() if "seconds" in rows[name]]
        if pairs:
            found[name] = {
                "seconds_ratio": _ratio.ratio(*([row["seconds"] for row in side] for side in zip(*pairs, strict=True))),
                "held_out_minus_shared": _ratio.spread([row["held_out"] - ours["held_out"] for row, ours in pairs]),
                "flops_ratio": _ratio.spread([row["flops"] / ours["flops"] for row, ours in pairs]),
            }
    return found


def compared(options: dict[str, Any], seed: int) -> dict[str, dict[str, Any]]:
    """All ways on one seed."""
    problem = Problem.load(SearchConfig.from_dict({**options, "seed": seed}))
    budget, calibration = parse_budget(options["budget"]).amount, options["num_calibration"]
    job = Job(problem, budget=budget, num_calibration=calibration, seed=seed)
    rows: dict[str, dict[str, Any]] = {}
    rows["shared"], genomes = shared(job, options)
    print(f"seed {seed}: shared: {rows['shared']}", file=sys.stderr, flush=True)
    ways = {"alone": lambda: alone(job, genomes), "supernet": lambda: supernet(job), "neps": lambda: neps(job)}
    for name, run in ways.items():
        rows[name] = run()
        print(f"seed {seed}: {name}: {rows[name]}", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", help="FLOPs of each way; 5TFLOP, with --quick 0.5TFLOP")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="Little work: checks that it runs, measures nothing.")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    keep_memory()
    torch.set_num_threads(given.threads)
    options = {"data": given.data, "recipe": "paper", "threads": given.threads, "population_size": CANDIDATES}
    options |= {"budget": given.budget or ("0.5TFLOP" if given.quick else "5TFLOP"), "blend": 0.1}
    options |= {"num_generations": 2, "validation": 0.02, "num_calibration": 100} if given.quick else {
        "num_generations": 5, "validation": 0.04, "num_calibration": 500
    }  # fmt: skip
    stored = json.loads(given.json.read_text(encoding="utf-8")) if given.json and given.json.is_file() else {}
    seeds = stored.get("seeds", {}) if stored.get("budget") == options["budget"] else {}
    for seed in range(given.seeds):
        if str(seed) not in seeds:
            seeds[str(seed)] = compared(options, seed)
        against = summary(seeds)
        found = {"threads": given.threads, "quick": given.quick, "budget": options["budget"]}
        found |= {"ratio": against["alone"]["seconds_ratio"], "against_shared": against, "seeds": seeds}
        _ratio.write(given.json, found)


if __name__ == "__main__":
    main()
