"""A network of a bank in training that can be forked and grown, and whose FLOPs are counted."""

from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments._training import set_up
from graftwork.evolution.transforms import Transform
from graftwork.networks import bind
from graftwork.networks.bank import BlockBank
from graftwork.networks.genome import Genome, num_parameters, training_flops
from graftwork.session import Problem, SearchConfig
from graftwork.training import BankOptimizer, BatchStream, Precision, Schedule, Scorer, Trainer, constant
from graftwork.typing import BlockId

RECIPE = "paper"
"""Adam at 0.003, batches of 64, no augmentation."""


@dataclass(frozen=True)
class Bench:
    """What all networks of a seed share.

    Args:
        problem: The data; the splits are the same for all seeds.
        seed: Seed of first weights, batches and new weights.
        precision: What products are computed in.
        num_points: Times a run is measured on the validation split.
        total: Updates of a full run.
    """

    problem: Problem
    seed: int
    precision: Precision
    num_points: int
    total: int

    @property
    def every(self) -> int:
        """Updates between two measurements."""
        return max(1, self.total // self.num_points)

    def begin(self, genome: Genome) -> "Branch":
        """A fresh network."""
        config = SearchConfig.from_dict(
            {"recipe": RECIPE, "seed": self.seed, "precision": self.precision, "threads": torch.get_num_threads()}
        )
        setup = set_up(self.problem, config, genome, steps=self.total)
        return Branch(self, genome, setup.trainer.optimizer, setup.trainer.batches, setup.scorer)

    @property
    def test(self) -> tuple[Tensor, Tensor]:
        """The test split: images uint8 [n, H, W, C], labels int64 [n]."""
        return self.problem.test()[:2]


@cache
def _problem(data: str) -> Problem:
    """Nothing here needs a blend split, so its images are trained on."""
    return Problem.load(SearchConfig.from_dict({"data": data, "recipe": RECIPE, "seed": 0, "blend": 0}))


def bench_of(data: str, *, seed: int, precision: Precision, num_points: int, total: int) -> Bench:
    """The bench of a seed; data are loaded once a process."""
    return Bench(_problem(data), seed, precision, num_points, total)


def plan_of_growth(small: float, full: float, moment: int, total: int) -> float:
    """FLOPs of a run that is grown after ``moment`` of ``total`` updates, of a cost each before and after."""
    return moment * small + (total - moment) * full


def pack_correct(correct: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    """Which examples a network gets right, as hexadecimal digits of its bits."""
    return np.packbits(correct).tobytes().hex()


@dataclass(frozen=True)
class _Warming:
    """New blocks, the update before which they were born, and updates over which their rate rises."""

    blocks: tuple[BlockId, ...]
    born: int
    length: int


class Branch:
    """One network, its optimizer, and what its training has cost so far.

    Args:
        bench: What it shares with others of its seed.
        genome: What it is.
        optimizer: Over the bank that holds its weights.
        batches: Training data.
        scorer: On the validation split.
    """

    def __init__(
        self, bench: Bench, genome: Genome, optimizer: BankOptimizer, batches: BatchStream, scorer: Scorer
    ) -> None:
        self.bench, self.genome, self.batches, self.scorer = bench, genome, batches, scorer
        self.optimizer = optimizer
        self.steps, self.flops, self.seconds = 0, 0, 0.0
        self.points: list[dict[str, float]] = []
        self._warming: _Warming | None = None
        self._bind()

    def _bind(self) -> None:
        self.member = bind(self.genome, self.optimizer.bank)
        self.trainer = Trainer(
            self.optimizer, batches=self.batches, schedule=constant(), precision=self.bench.precision
        )

    @property
    def step_flops(self) -> int:
        """FLOPs of an update."""
        return training_flops(self.genome, self.trainer.batch_size)

    def train(self, until: int, schedule: Schedule, *, total: int) -> "Branch":
        """Train to an update of ``total``, which the schedule spans; measure now and then.

        Returns:
            Itself.
        """
        self.trainer.schedule = schedule
        while self.steps < until:
            start = perf_counter()
            held = self._hold()
            self.trainer.step(self.member, self.steps, self.steps / total)
            self._release(held)
            self.seconds += perf_counter() - start
            self.steps, self.flops = self.steps + 1, self.flops + self.step_flops
            if self.steps % self.bench.every == 0:
                self.measure()
        return self

    def _hold(self) -> list[tuple[Tensor, Tensor]]:
        """New tensors that are warming up, each with its value before the update."""
        if self._warming is None or self.steps >= self._warming.born + self._warming.length:
            return []
        bank = self.optimizer.bank
        tensors = (tensor for block_id in self._warming.blocks for tensor in bank[block_id].values())
        return [(tensor.detach(), tensor.detach().clone()) for tensor in tensors]

    def _release(self, held: list[tuple[Tensor, Tensor]]) -> None:
        """Take back what a warming tensor has moved too far: as if its rate were that share of the others'."""
        if held and self._warming is not None:
            share = (self.steps - self._warming.born + 1) / self._warming.length
            for tensor, before in held:
                tensor.copy_(torch.lerp(before, tensor, share))

    def measure(self) -> None:
        """Note where it stands on the validation split."""
        accuracy = float(self.scorer.score([self.member]).mean())
        self.points.append(
            {"step": self.steps, "flops": self.flops, "seconds": round(self.seconds, 1), "accuracy": accuracy}
        )

    def end(self) -> dict[str, Any]:
        """Its path, and which test images it gets right: this opens the test split."""
        if not self.points or self.points[-1]["step"] < self.steps:
            self.measure()
        images, labels = self.bench.test
        logits = self.scorer.logits([self.member], images)[0]
        return {
            "points": self.points,
            "flops": self.flops,
            "steps": self.steps,
            "test_correct": pack_correct((logits.argmax(1) == labels).numpy()),
            "test_accuracy": float((logits.argmax(1) == labels).float().mean()),
        }

    def fork(self) -> "Branch":
        """An independent copy: weights, moments, counts, and how its new blocks warm up."""
        bank, old = BlockBank(), self.optimizer.bank
        for block_id in old:
            bank.add(block_id, old[block_id], old.roles(block_id))
        optimizer = BankOptimizer(bank, self.optimizer.rules)
        optimizer.load_state(*self.optimizer.state())
        copy = Branch(self.bench, self.genome, optimizer, self.batches, self.scorer)
        copy.steps, copy.flops, copy.seconds = self.steps, self.flops, self.seconds
        copy.points, copy._warming = list(self.points), self._warming
        copy.trainer.lr_scale = self.trainer.lr_scale
        copy.trainer.reference_parameters = self.trainer.reference_parameters
        return copy

    def grow(self, transform: Transform, *, warmup: int = 0, rate_rule: bool = False) -> "Branch":
        """Graft new blocks, which join the optimizer with fresh moments.

        Args:
            transform: What grows.
            warmup: Updates over which the rate of the new blocks rises to the full one; 0: at once.
            rate_rule: Whether rate and decay are multiplied by |θ_parent| / |θ_child| from now on.

        Returns:
            Itself.
        """
        parent = num_parameters(self.genome)
        growth = transform(self.genome, rng=np.random.default_rng(self.bench.seed))
        growth.graft(self.optimizer.bank, generator=torch.Generator().manual_seed(self.bench.seed))
        self.optimizer.sync()
        self.genome = growth.child
        self._bind()
        if rate_rule:
            self.trainer.lr_scale, self.trainer.reference_parameters = "parameter-ratio", parent
        if warmup:
            self._warming = _Warming(growth.new_blocks, self.steps, warmup)
        return self
