"""Scoring a population with shared prefixes, against scoring each member by itself with `naive.py`.

    python benchmarks/scoring.py --data PATH-TO-CIFAR10 --threads 1 --json results/speed/scoring.json

Ten evolved members, and a hundred that mutation grows from one of them. Beside the ratio stands what the trie of
genomes saves in FLOPs, which the ratio can be held against. In float32 both choose the same classes, but for images
whose two largest logits lie within rounding.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import _ratio
import naive
import population
from graftwork.bank import BlockBank
from graftwork.config import Problem, SearchConfig
from graftwork.datasets import cache_folder
from graftwork.execution import set_kernels, shared_flops
from graftwork.genome import Genome, forward_flops
from graftwork.kernels import build
from graftwork.member import bind
from graftwork.mutation import R2RMutation
from graftwork.population import Population
from graftwork.runs import keep_memory
from graftwork.training import Scorer, measure_precision


def lineage(genomes: list[Genome], size: int) -> list[Genome]:
    """A population that the recipe's mutations grow from one member to a size."""
    grown = Population()
    grown.add_seed(genomes[0], generator=torch.Generator().manual_seed(0), initialisation="random")
    R2RMutation()(grown, size, rng=np.random.default_rng(0), generation=1)
    return grown.genomes


def compare(genomes: list[Genome], data, precision, repetitions: int) -> dict[str, object]:
    images, labels, calibration, transform = data
    bank: BlockBank = population.grow(genomes)
    members, plain = [bind(genome, bank) for genome in genomes], naive.build(genomes, bank)
    ready, prepared = transform(images).contiguous(), transform(calibration).contiguous()
    exact = Scorer(images, labels, transform=transform, calibration=calibration)
    scorer = Scorer(images, labels, transform=transform, calibration=calibration, precision=precision)
    agreement = float(np.mean(exact.evaluate(members).predicted == naive.score(plain, prepared, ready).numpy()))
    ways = {
        "naive": lambda: naive.score(plain, prepared, ready),
        "one_by_one": lambda: [scorer.score([member]) for member in members],
        "shared": lambda: scorer.score(members),
    }
    found = _ratio.times(ways, repetitions)
    return {
        "members": len(genomes),
        "ratio": _ratio.ratio(found["naive"], found["shared"]),
        "ratio_one_by_one": _ratio.ratio(found["one_by_one"], found["shared"]),
        "flops_ratio": sum(map(forward_flops, genomes)) / shared_flops(genomes),
        "same_classes_float32": agreement,
        "seconds": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="Few images: checks that it runs, measures nothing.")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_memory()
    problem, genomes = Problem.load(SearchConfig.from_dict({"data": given.data})), population.load()
    num_images, num_calibration, lineage_size, repetitions = (100, 50, 12, 1) if given.quick else (2000, 1000, 100, 5)
    rows = problem.splits.validation[:num_images]
    calibration = problem.images(problem.calibration_rows(num_calibration))
    data = problem.images(rows), problem.labels(rows), calibration, problem.transform
    kernels = build(cache_folder())
    batch = problem.transform(data[0][:64]), data[1][:64]
    choice = measure_precision(bind(genomes[-1], population.grow(genomes)), batch, kernels=kernels)
    set_kernels(kernels if choice.passes == "compiled" else None)
    evolved = compare(genomes, data, choice.precision, repetitions)
    long = compare(lineage(genomes, lineage_size), data, choice.precision, repetitions)
    found = {"threads": given.threads, "quick": given.quick, "choice": choice.to_dict()}
    _ratio.write(given.json, {**found, "ratio": evolved["ratio"], "evolved": evolved, "lineage": long})


if __name__ == "__main__":
    main()
