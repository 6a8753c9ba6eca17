"""Scoring a population with shared prefixes, against scoring each member by itself with `naive.py`.

    python benchmarks/scoring.py --data PATH-TO-CIFAR10 --threads 1 --json results/speed/scoring.json

About six minutes on one idle core; after the first round it says how long the rest will take. Ten evolved members, and
a hundred that mutation grows from one of them, are scored on the same images in four ways: ``naive`` (plain PyTorch,
member by member), ``good`` (the same in channels-last and our precision), ``one_by_one`` (the package's own form,
member by member) and ``shared`` (the trie of genomes, each prefix once). One round is not measured: it prepares
kernels, and its answers are compared. Then the ways take turns.

* ``ratio_to_good``: good over shared, which the goals (4 for the ten, 6 for the hundred) are about; ``ratio``: naive.
* ``fused_gain``: naive over one_by_one, what the package's form and precision give without sharing anything.
* ``flops_ratio``: what the trie saves in FLOPs. ``of_possible`` is the ratio as a share of flops_ratio times
  fused_gain, repetition by repetition; the criterion is at least 0.8.

The answers of ``shared`` have to equal those of ``one_by_one`` to the bit, or the benchmark fails. In float32 naive
chooses the same classes, too, but for images whose two largest logits lie within rounding (``same_classes_float32``).
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

import _ratio
import naive
import population
from graftwork.datasets import cache_folder
from graftwork.evolution import Population
from graftwork.evolution.mutation import R2RMutation
from graftwork.machine import keep_memory, measure_precision
from graftwork.networks import Member, bind
from graftwork.networks.bank import BlockBank
from graftwork.networks.execution import InputTransform, set_kernels, shared_flops
from graftwork.networks.genome import Genome, forward_flops
from graftwork.networks.kernels import build
from graftwork.session import Problem, SearchConfig
from graftwork.training import Precision, Scorer

SIZES = {"evolved": (500, 250), "lineage": (80, 40)}
"""Images to score and to calibrate on: as many as five repetitions of all three ways get through in minutes."""
GOALS = {"evolved": 4.0, "lineage": 6.0}
NEEDED = 0.8

Data = tuple[Tensor, Tensor, Tensor, InputTransform]


def lineage(genomes: list[Genome], size: int) -> list[Genome]:
    """A population that the recipe's mutations grow from one member to a size."""
    grown = Population()
    grown.add_seed(genomes[0], generator=torch.Generator().manual_seed(0), initialisation="random")
    R2RMutation()(grown, size, rng=np.random.default_rng(0), generation=1)
    return grown.genomes


def _equal(scorer: Scorer, members: Sequence[Member]) -> bool:
    """Whether logits by the trie and member by member are the same to the bit."""
    together = scorer.logits(members)
    return all(torch.equal(scorer.logits([member])[0], row) for member, row in zip(members, together, strict=True))


def compare(name: str, genomes: list[Genome], data: Data, precision: Precision, repetitions: int) -> dict[str, Any]:
    """Both comparisons of one population: the answers, then the times."""
    images, labels, calibration, transform = data
    bank: BlockBank = population.grow(genomes)
    members, plain = [bind(genome, bank) for genome in genomes], naive.build(genomes, bank)
    good = naive.channels_last(naive.build(genomes, bank))
    ready, prepared = transform(images).contiguous(), transform(calibration).contiguous()
    fast = [x.contiguous(memory_format=torch.channels_last) for x in (prepared, ready)]
    exact = Scorer(images, labels, transform=transform, calibration=calibration)
    scorer = Scorer(images, labels, transform=transform, calibration=calibration, precision=precision)
    ways: dict[str, Callable[[], Any]] = {
        "naive": lambda: naive.score(plain, prepared, ready),
        "good": lambda: naive.score(good, *fast, precision=precision),
        "one_by_one": lambda: [scorer.evaluate([member]) for member in members],
        "shared": lambda: scorer.evaluate(members),
    }
    began = perf_counter()
    answers = {way: run() for way, run in ways.items()}["naive"]
    expected = repetitions * (perf_counter() - began)
    print(f"{name}: {len(genomes)} members, {len(images)} images, about {expected:.0f} s to go", file=sys.stderr)
    classes = exact.evaluate(members).predicted
    seconds = _ratio.times(ways, repetitions, warm=True)
    ratios = [slow / fast for slow, fast in zip(seconds["naive"], seconds["shared"], strict=True)]
    gains = [slow / fast for slow, fast in zip(seconds["naive"], seconds["one_by_one"], strict=True)]
    flops_ratio = sum(map(forward_flops, genomes)) / shared_flops(genomes)
    share = _ratio.spread([ratio / (flops_ratio * gain) for ratio, gain in zip(ratios, gains, strict=True)])
    to_good = _ratio.ratio(seconds["good"], seconds["shared"])
    return {
        "members": len(genomes),
        "images": len(images),
        "calibration_images": len(calibration),
        "repetitions": repetitions,
        "ratio": _ratio.spread(ratios),
        "ratio_to_good": to_good,
        "goal": {"at_least": GOALS[name], "met": to_good["median"] >= GOALS[name]},
        "flops_ratio": flops_ratio,
        "fused_gain": _ratio.spread(gains),
        "of_possible": share,
        "criterion": {"at_least": NEEDED, "met": share["median"] >= NEEDED},
        "equal_to_one_by_one": _equal(scorer, members),
        "same_classes_float32": float(np.mean(classes == answers.numpy())),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="Few images: checks that it runs, measures nothing.")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_memory()
    problem, genomes = Problem.load(SearchConfig.from_dict({"data": given.data})), population.load()
    sizes = dict.fromkeys(SIZES, (20, 10)) if given.quick else SIZES
    repetitions = 1 if given.quick else given.repetitions
    kernels = build(cache_folder())
    rows = problem.splits.validation[:64]
    batch = problem.transform(problem.images(rows)), problem.labels(rows)
    machine = measure_precision(bind(genomes[-1], population.grow(genomes)), batch, kernels=kernels)
    set_kernels(kernels if machine.passes == "compiled" else None)
    found: dict[str, Any] = {}
    for name, (num_images, num_calibration) in sizes.items():
        rows = problem.splits.validation[:num_images]
        calibration = problem.images(problem.calibration_rows(num_calibration))
        data = problem.images(rows), problem.labels(rows), calibration, problem.transform
        scored = genomes if name == "evolved" else lineage(genomes, 12 if given.quick else 100)
        found[name] = compare(name, scored, data, machine.precision, repetitions)
    told = {"threads": given.threads, "quick": given.quick, "choice": machine.to_dict()}
    told["precisions"] = {"naive": "float32", "good": machine.precision, "ours": machine.precision}
    _ratio.write(given.json, {**told, "ratio": found["evolved"]["ratio"], **found})
    unequal = [name for name, entry in found.items() if not entry["equal_to_one_by_one"]]
    if unequal:
        raise SystemExit(f"scoring by the trie and member by member differ: {', '.join(unequal)}")


if __name__ == "__main__":
    main()
