"""Joint training of an evolved population, against `naive.py`: how many times as long the naive one takes.

    python benchmarks/joint_training.py --data PATH-TO-CIFAR10 --threads 1 --json results/speed/joint_training-1.json
    python benchmarks/joint_training.py --data PATH-TO-CIFAR10 --threads 2 --json results/speed/joint_training-2.json

Two ratios: over the whole pipeline (reading, flips and shifts, passes, optimizer), and over identical ready batches;
each also against the good form of the naive way (channels-last, batches as tensors, fused Adam, our precision).
First both train the same members on the same batches from the same weights: the losses have to agree. In float64 they
do at the recipe's rate: it is the same arithmetic. In float32 they do at a hundredth of the rate; at the full rate the
gap is told too, but Adam's first update moves every weight by the whole rate whatever the size of its gradient, so
where a gradient is zero but for rounding, rounding says which way, and deep members part.

With ``--workers`` (``--threads 2 --workers 2 --json results/speed/joint-workers.json``) the threads are shared among
so many workers, which average every ``--sync-every`` updates as those of ``graftwork search`` do (0: they share every
batch); while the naive way runs, with all threads, they wait. Only the whole pipeline is compared then, and not for the
same losses: ``workers.py --searches`` says what two workers reach.
"""

import argparse
import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import _ratio
import naive
import population
from graftwork.datasets import cache_folder
from graftwork.machine import keep_memory, measure_precision
from graftwork.networks import Member, bind
from graftwork.networks.execution import set_kernels
from graftwork.networks.kernels import build
from graftwork.session import Problem, SearchConfig
from graftwork.training import (
    RECIPES,
    Augmentation,
    BankOptimizer,
    BatchStream,
    Precision,
    Trainer,
    Update,
    in_precision,
    same_rule,
)
from graftwork.workers import Group, launch, train_together

PAPER = RECIPES["paper"]
RULE = PAPER.rules["filter"]
CHECKS = {
    "float64": (torch.float64, RULE.lr, 1e-6),
    "float32": (torch.float32, RULE.lr / 100, 1e-4),
    "float32_full_rate": (torch.float32, RULE.lr, None),
}
"""Name → type, learning rate, and the largest difference of two losses that passes (None: told, not judged)."""


class Ours:
    """The population in the package's own form."""

    def __init__(self, genomes, batches: BatchStream, precision: Precision, lr: float = RULE.lr) -> None:
        bank = population.grow(genomes)
        self.members = [bind(genome, bank) for genome in genomes]
        self.optimizer = BankOptimizer(bank, same_rule(replace(RULE, lr=lr)))
        self.precision = precision
        schedule = PAPER.make_schedule()
        self.trainer = Trainer(self.optimizer, batches=batches, schedule=schedule, precision=precision)

    def on_batch(self, member: Member, x: Tensor, y: Tensor) -> float:
        self.optimizer.zero_grad()
        member.train()
        with in_precision(self.precision, x.device):
            logits = member(x)
        loss = F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), y)
        value = float(loss.detach())
        loss.backward()
        self.optimizer.step()
        return value


class Naive:
    """The same population from the same weights by `naive.py`; with a precision in its good form."""

    def __init__(self, genomes, lr: float = RULE.lr, good: Precision | None = None) -> None:
        self.members = naive.build(genomes, population.grow(genomes))
        if good:
            self.members = naive.channels_last(self.members)
        self.precision = good or "float32"
        self.adam = naive.optimizer(self.members, lr=lr, weight_decay=RULE.weight_decay, fused=bool(good) or None)

    def on_batch(self, member, x: Tensor, y: Tensor) -> float:
        return naive.train_step(member, self.adam, x, y, self.precision)


def largest_gap(genomes, batches: BatchStream, num_steps: int, dtype: torch.dtype, lr: float) -> float:
    """Largest difference of losses on the same steps, the members in turn."""
    ours, theirs = Ours(genomes, batches, "float32", lr), Naive(genomes, lr)
    for module in (*ours.members, *theirs.members):
        module.to(dtype)
    ours.optimizer.bank.to(dtype=dtype)
    gap = 0.0
    for number in range(num_steps):
        x, y = batches.batch(number)
        x, drawn = x.to(dtype), number % len(genomes)
        one, other = ours.on_batch(ours.members[drawn], x, y), theirs.on_batch(theirs.members[drawn], x.contiguous(), y)
        gap = max(gap, abs(one - other))
    return gap


def agreement(genomes, batches: BatchStream, num_steps: int) -> dict[str, object]:
    """The largest gap of every check, and whether it passes."""
    found = {}
    for name, (dtype, lr, allowed) in CHECKS.items():
        gap = largest_gap(genomes, batches, num_steps, dtype, lr)
        judged = {} if allowed is None else {"allowed": allowed, "within": gap <= allowed}
        found[name] = {"steps": num_steps, "learning_rate": lr, "largest_gap": gap, **judged}
    return found


def compare(genomes, problem: Problem, batches: BatchStream, precision: Precision, *, steps: int, repetitions: int):
    """Seconds of the three ways, over the pipeline and over ready batches."""
    draws, numbers = np.random.default_rng(0).integers(len(genomes), size=steps), count()
    ready = [batches.batch(number) for number in range(8)]
    plain = [(x.contiguous(), y) for x, y in ready]
    ours, theirs, good = Ours(genomes, batches, precision), Naive(genomes), Naive(genomes, good=precision)

    def ours_pipeline() -> None:
        for drawn in draws:
            ours.trainer.step(ours.members[drawn], next(numbers), 0.0)

    def over(side, data) -> None:
        for step, drawn in enumerate(draws):
            side.on_batch(side.members[drawn], *data[step % len(data)])

    ways = {
        "naive_pipeline": naive_pipeline(theirs, problem, draws, batches.batch_size),
        "good_pipeline": good_pipeline(good, problem, draws, batches.batch_size),
        "pipeline": ours_pipeline,
        "naive_ready": lambda: over(theirs, plain),
        "good_ready": lambda: over(good, ready),
        "ready": lambda: over(ours, ready),
    }
    return _ratio.times(ways, repetitions)


def naive_pipeline(theirs: Naive, problem: Problem, draws: np.ndarray, batch_size: int):
    """Images from the data set through PIL into one update of each member that was drawn."""
    pictures = _pictures(problem, batch_size)

    def run() -> None:
        endless = (pair for epoch in count() for pair in naive.loader(pictures, batch_size=batch_size, seed=epoch))
        for drawn, (x, y) in zip(draws, endless, strict=False):
            theirs.on_batch(theirs.members[drawn], x, y)

    return run


def good_pipeline(good: Naive, problem: Problem, draws: np.ndarray, batch_size: int):
    """The same from one tensor in memory."""
    batches = naive.TensorBatches(_pictures(problem, batch_size), batch_size=batch_size, seed=0)

    def run() -> None:
        for drawn, (x, y) in zip(draws, batches, strict=False):
            good.on_batch(good.members[drawn], x, y)

    return run


def _pictures(problem: Problem, batch_size: int) -> naive.Pictures:
    return naive.pictures(problem, problem.splits.train[: 64 * batch_size], shift=2, flip=True)


def compare_together(problem: Problem, batches: BatchStream, group: Group, given: dict[str, Any]):
    """Seconds of both ways on rank 0; the other ranks take part in ours."""
    genomes = population.load()
    draws, numbers = np.random.default_rng(0).integers(len(genomes), size=given["steps"]), count()
    ours = Ours(genomes, batches, given["precision"])
    trainer = train_together(ours.trainer, group, given["sync_every"])
    trainer.sync()

    def together() -> None:
        group.add(torch.zeros(1))  # who has nothing to do while the naive way runs waits here
        updates = [Update((ours.members[drawn],), next(numbers), 0.0) for drawn in draws]
        for start in range(0, len(updates), trainer.updates_at_once):
            trainer.run(updates[start : start + trainer.updates_at_once])

    ways = {"pipeline": together}
    if group.leads:
        alone = naive_pipeline(Naive(genomes), problem, draws, batches.batch_size)

        def on_all_threads() -> None:
            own = torch.get_num_threads()
            torch.set_num_threads(given["threads"])
            alone()
            torch.set_num_threads(own)

        ways = {"naive_pipeline": on_all_threads, **ways}
    return _ratio.times(ways, given["repetitions"])


def rank(method: str, given: dict[str, Any], out: str) -> None:
    """One worker of several; rank 0 writes the seconds."""
    keep_memory()
    set_kernels(build(cache_folder()) if given["passes"] == "compiled" else None)
    group = Group.join(method=method)
    try:
        torch.set_num_threads(given["threads"] // group.size)
        found = compare_together(*loaded(given["data"]), group, given)
        if group.leads:
            Path(out).write_text(json.dumps(found))
    finally:
        group.leave()


def loaded(data: str) -> tuple[Problem, BatchStream]:
    problem = Problem.load(SearchConfig.from_dict({"data": data}))
    return problem, BatchStream(
        problem.dataset.images, problem.dataset.labels, problem.splits.train, batch_size=PAPER.batch_size, seed=0,
        transform=problem.transform, augmentation=Augmentation("random", 2),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="that share the threads")
    parser.add_argument("--sync-every", type=int, default=16, help="as of a search; 0: workers share every batch")
    parser.add_argument("--quick", action="store_true", help="Few steps: checks that it runs, measures nothing.")
    parser.add_argument("--passes", choices=("auto", "torch"), default="auto")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.workers < 1 or given.threads % given.workers:
        parser.error(f"--workers: expected a divisor of the {given.threads} threads, got {given.workers}")
    torch.set_num_threads(given.threads // given.workers)
    keep_memory()
    problem, batches = loaded(given.data)
    genomes = population.load()
    kernels = build(cache_folder()) if given.passes == "auto" else None
    machine = measure_precision(bind(genomes[-1], population.grow(genomes)), batches.batch(0), kernels=kernels)
    set_kernels(kernels if machine.passes == "compiled" else None)
    steps, repetitions, compared = (4, 1, 3) if given.quick else (40, 7, 20)
    if given.workers > 1:
        how = {"data": given.data, "threads": given.threads, "precision": machine.precision, "passes": machine.passes}
        how |= {"steps": 8 if given.quick else 64, "sync_every": given.sync_every}
        with TemporaryDirectory() as folder:
            launch(rank, given.workers, {**how, "repetitions": repetitions}, f"{folder}/seconds.json")
            found = json.loads(Path(f"{folder}/seconds.json").read_text())
        known = {
            "threads": given.threads,
            "workers": given.workers,
            "sync_every": given.sync_every,
            "quick": given.quick,
        }
        known |= {"choice": machine.to_dict()}
        ratio = _ratio.ratio(found["naive_pipeline"], found["pipeline"])
        _ratio.write(given.json, {**known, "ratio": ratio, "seconds": found})
        return
    losses = agreement(genomes, batches, compared)
    found = compare(genomes, problem, batches, machine.precision, steps=steps, repetitions=repetitions)
    _ratio.write(
        given.json,
        {
            "threads": given.threads,
            "quick": given.quick,
            "choice": machine.to_dict(),
            "losses": losses,
            "ratio": _ratio.ratio(found["naive_pipeline"], found["pipeline"]),
            "ratio_ready_batches": _ratio.ratio(found["naive_ready"], found["ready"]),
            "ratio_to_good": _ratio.ratio(found["good_pipeline"], found["pipeline"]),
            "ratio_to_good_ready_batches": _ratio.ratio(found["good_ready"], found["ready"]),
            "precisions": {"naive": "float32", "good": machine.precision, "ours": machine.precision},
            "seconds": found,
        },
    )


if __name__ == "__main__":
    main()
