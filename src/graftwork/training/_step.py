"""Trainer: an optimization step of one member, or of several together, on one batch."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite, nan
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.errors import ConfigError, GraftworkError
from graftwork.networks import Member
from graftwork.networks.execution import walk
from graftwork.networks.genome import TRAINING_FACTOR, num_parameters
from graftwork.training._batches import BatchStream, shrink
from graftwork.training._optimizer import BankOptimizer
from graftwork.training._options import check_choice, check_range
from graftwork.training._precision import Precision, in_precision
from graftwork.training._schedules import Schedule

LrScale = Literal["none", "parameter-ratio"]

NOT_FINITE_HINT = "lower the learning rates of the recipe, or check the images for broken values"
"""What to do where a loss or a gradient is not finite."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Network input [B, C, H, W], logits float32 [B, classes] and classes, int64 [B], or their shares, float [B, classes] →
mean loss of the batch."""


@dataclass(frozen=True, slots=True)
class Update:
    """One update that has been drawn.

    Args:
        members: Members to train: one, or several together.
        number: Number of the update, from 0; it determines the batch.
        progress: Progress of the whole search, 0 to 1; it drives the schedule.
        size: Height and width that the images are shrunk to; ``None``: as they are.
        rate: Factor on the learning rate.
    """

    members: tuple[Member, ...]
    number: int
    progress: float
    size: tuple[int, int] | None = None
    rate: float = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a list of updates came to.

    Args:
        loss: Sum, over the updates that were made, of the mean of the members' losses before the update.
        skipped: Indices of the updates that were not made, as a loss or a gradient was NaN or infinite.
    """

    loss: float
    skipped: frozenset[int] = frozenset()


def _cross_entropy(
    x: Tensor, logits: Tensor, classes: Tensor, *, label_smoothing: float, weights: Tensor | None
) -> Tensor:
    if classes.is_floating_point():  # shares of the classes that the data have; a network may know more
        classes = F.pad(classes, (0, logits.shape[1] - classes.shape[1]))
    return F.cross_entropy(logits, classes, weights, label_smoothing=label_smoothing)


class Trainer:
    """Joint training, one step at a time: any members of a population, one optimizer, one stream of batches.

    Args:
        optimizer: Optimizer over the bank that the members are bound to.
        batches: Training data.
        schedule: Progress of the whole search → factor on the learning rate.
        label_smoothing: Share of the target that is spread over all classes, in [0, 1).
        precision: Precision of the products; loss, weights and moments are always float32.
        lr_scale: ``"parameter-ratio"``: learning rate and weight decay times ``|θ_reference| / |θ_member|`` (Painter's
            report); ``"none"``: the same for all.
        reference_parameters: Number of parameters of the seed network, ``|θ_reference|``; only for
            ``"parameter-ratio"``.
        class_weights: Weight of the examples of each class in the loss, float [class], where the batches are; ``None``:
            1.

    Attributes:
        loss: Cross-entropy; may be set to another `Loss`, such as one that reads a teacher.

    Raises:
        ConfigError: If a value is out of its range.
    """

    def __init__(
        self,
        optimizer: BankOptimizer,
        *,
        batches: BatchStream,
        schedule: Schedule,
        label_smoothing: float = 0.0,
        precision: Precision = "float32",
        lr_scale: LrScale = "none",
        reference_parameters: int | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        check_range("label_smoothing", label_smoothing, low=0, high=0.999)
        check_choice("precision", precision, get_args(Precision))
        check_choice("lr_scale", lr_scale, get_args(LrScale))
        if lr_scale == "parameter-ratio" and not reference_parameters:
            raise ConfigError(
                "reference_parameters: expected the number of parameters of the seed network, for lr_scale "
                f"'parameter-ratio', got {reference_parameters!r}"
            )
        self.optimizer = optimizer
        self.updates_at_once = 1
        self.batches = batches
        self.batch_size = batches.batch_size
        self.schedule = schedule
        self.label_smoothing = label_smoothing
        self.precision: Precision = precision
        self.lr_scale: LrScale = lr_scale
        self.reference_parameters = reference_parameters
        self.loss: Loss = partial(_cross_entropy, label_smoothing=label_smoothing, weights=class_weights)

    def ratio(self, member: Member) -> float:
        """Factor on the member's learning rate and weight decay: α' = α · |θ_reference| / |θ_member|, or 1."""
        if self.lr_scale == "none" or self.reference_parameters is None:
            return 1.0
        return self.reference_parameters / num_parameters(member.genome)

    @property
    def extra_flops(self) -> int:
        """FLOPs of an update beside those of the members: those of a trunk that comes first."""
        return TRAINING_FACTOR * self.batches.transform.flops * self.batch_size

    def sync(self) -> None:
        """Make the optimizer follow the bank, after members were born or dropped."""
        self.optimizer.sync()

    def step(self, member: Member, number: int, progress: float) -> float:
        """Train one member on batch ``number``: an update that names this member alone (see `run`).

        Returns:
            The loss before the update.

        Raises:
            GraftworkError: If loss or gradient is not finite; no weight has been moved then.
        """
        update = Update((member,), number, progress)
        loss = self.gradients(update)
        if not self.move(update):
            raise GraftworkError(
                f"training: expected a finite loss and gradient, got loss {loss:.4g} for member "
                f"{member.genome.id[:8]} at step {number}; {NOT_FINITE_HINT}"
            )
        return loss

    def run(self, updates: Sequence[Update]) -> Outcome:
        """Make updates one after the other; one whose loss or gradient is not finite is skipped.

        Only tensors that an update's members bind are moved; running statistics are not written. Where an update names
        several members, what they have in common runs once, forward and backward. Every tensor is moved by the mean of
        the gradients of the members that bind it, so a tensor of one member alone moves as if only that member were
        trained. Rate and decay are scaled by the mean of the members' ratios.

        Returns:
            The sum of the losses, and what was skipped: such an update changes no weight and no moment.
        """
        total, skipped = 0.0, set[int]()
        for index, update in enumerate(updates):
            loss = self.gradients(update)
            if self.move(update):
                total += loss
            else:
                skipped.add(index)
        return Outcome(total, frozenset(skipped))

    def gradients(self, update: Update, part: slice | None = None) -> float:
        """Compute the gradients of an update, into the tensors that its members bind: the first half of an update.

        Args:
            update: The update; its members are put into training mode.
            part: Images of the batch to learn from, over which norms take their statistics, too; ``None``: all.

        Returns:
            The mean of the members' losses. If it is not finite, all gradients are made NaN: a loss may be infinite
            where its gradient is not.
        """
        alone = len(update.members) == 1
        x, y = self.batches.batch(update.number, part)
        if update.size is not None:
            x = shrink(x, update.size)
        self.optimizer.zero_grad()
        for member in update.members:
            member.train()
        with in_precision(self.precision, x.device):
            if alone and update.size is None:
                found = {0: update.members[0](x)}
            else:
                found = dict(walk(update.members, x, "train"))
        losses = [self.loss(x, found[index].float(), y) for index in range(len(update.members))]
        torch.autograd.backward(losses)
        uses = Counter() if alone else Counter(_tensors(update))
        if self.optimizer.beside is not None:
            uses |= dict.fromkeys(self.optimizer.beside.tensors.values(), len(update.members))
        for parameter, count in uses.items():
            if count > 1 and parameter.grad is not None:
                parameter.grad.div_(count)
        mean = sum(float(loss.detach()) for loss in losses) / len(losses)
        if not isfinite(mean):
            for parameter in _tensors(update):
                if parameter.grad is not None:
                    parameter.grad.fill_(nan)
        return mean

    def move(self, update: Update) -> bool:
        """Move every tensor that has a gradient, unless one of them is not finite: the second half of an update.

        Returns:
            Whether it was done; otherwise no weight and no moment has changed.
        """
        if not self.optimizer.has_finite_gradients():
            return False
        ratio = sum(self.ratio(member) for member in update.members) / len(update.members)
        self.optimizer.step(self.schedule(update.progress) * ratio * update.rate, ratio)
        return True


def _tensors(update: Update) -> Iterator[Tensor]:
    """Every tensor that a member of an update binds, once for each such member."""
    for member in update.members:
        yield from member.parameters_by_key().values()
