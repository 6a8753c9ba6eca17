"""A training loop for ordinary modules that counts what it spends."""

import copy
import math
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import clip_grad_norm_
from torch.utils.flop_counter import FlopCounterMode

from experiments.growing._tasks import Task, evaluation_mode
from graftwork.errors import ResourceError
from graftwork.training import Precision, in_precision


def training_flops(model: nn.Module, example: Tensor) -> float:
    """FLOPs of a training step on one example: three forward passes, a multiply-add counted as 2.

    Attention is counted as its matrix products, all T² of them: PyTorch's counter knows no fused kernel on the CPU.

    Args:
        model: Model to count.
        example: One row of input [1, …].
    """
    counter = FlopCounterMode(display=False)
    with evaluation_mode(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(example)
    return 3.0 * counter.get_total_flops()


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a model whose initial weights depend on the seed alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class Learner:
    """A model, its optimizer and what its training has cost so far.

    Args:
        model: Model to train, in place.
        task: Batches, loss and measure.
        precision: Precision of the products.
    """

    def __init__(self, model: nn.Module, task: Task, *, precision: Precision) -> None:
        self.model, self.task, self.precision = model.train(), task, precision
        self.renew_optimizer()
        self.steps, self.flops, self.seconds = 0, 0.0, 0.0
        self.losses: list[float] = []
        self.recount()

    def renew_optimizer(self) -> None:
        """Replace the optimizer by a fresh one, without moments."""
        self.optimizer = self.task.optimizer(self.model.parameters())
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """All that moves the model."""
        return (self.optimizer,)

    def recount(self) -> None:
        """Count the cost of a step again, after a growth."""
        self.step_flops = training_flops(self.model, self.example(1)) * self.task.batch_size

    def example(self, rows: int) -> Tensor:
        """The first rows of the first batch."""
        return self.task.batch(0)[0][:rows]

    def step(self, factor: float) -> float:
        """One update at a share of the full rate.

        Returns:
            The loss on the batch, before the update.

        Raises:
            ResourceError: If the loss is not finite.
        """
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = group["initial_lr"] * factor
        start = perf_counter()
        x, y = self.task.batch(self.steps)
        with in_precision(self.precision, x.device):
            logits = self.model(x)
        loss = nn.functional.cross_entropy(logits.float().flatten(0, -2), y)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.task.clip is not None:
            clip_grad_norm_(self.model.parameters(), self.task.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        value = float(loss.detach())
        self.seconds += perf_counter() - start
        if not math.isfinite(value):
            raise ResourceError(f"the loss became {value} at update {self.steps}: the learning rate is too high")
        self.steps += 1
        self.flops += self.step_flops
        self.losses.append(value)
        return value

    def spend(self, until: float, rate: Callable[["Learner"], float]) -> None:
        """Train as long as another step stays within so many FLOPs since the beginning.

        Args:
            until: FLOPs since the beginning.
            rate: This learner → share of the full rate, asked before every step.
        """
        while self.flops + self.step_flops <= until:
            self.step(rate(self))

    def fork(self) -> "Learner":
        """An independent copy: model, optimizer, counts."""
        memo: dict[int, Any] = {id(self.task): self.task}
        return copy.deepcopy(self, memo)

    def point(self, *, examples: int | None = None) -> dict[str, float]:
        """Where it stands: updates, FLOPs, seconds of training, held-out loss and accuracy."""
        measured = self.task.evaluate(self.model, examples=examples)
        return {"step": self.steps, "flops": self.flops, "seconds": round(self.seconds, 3), **measured}
