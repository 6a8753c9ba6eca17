"""Trainer: one optimization step of one member, or of several together, on one batch."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.errors import ConfigError, GraftworkError
from graftwork.execution import walk
from graftwork.genome import num_parameters
from graftwork.member import Member
from graftwork.training._batches import BatchStream, shrink
from graftwork.training._optimizer import BankOptimizer
from graftwork.training._options import check_choice, check_range
from graftwork.training._precision import Precision, in_precision
from graftwork.training._schedules import Schedule
from graftwork.typing import BlockId

LrScale = Literal["none", "parameter-ratio"]

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Network input [B, C, H, W], logits float32 [B, classes] and classes int64 [B] → mean loss of the batch."""


@dataclass(frozen=True, slots=True)
class Update:
    """One update that has been drawn.

    Args:
        members: Whom to train: one, or several together.
        number: Of the update, from 0: chooses the batch.
        progress: Of the whole search, 0 to 1: drives the schedule.
        size: Height and width that the images are shrunk to; ``None``: as they are.
        line: Number of the first member's line, from 0, for lines that augment their images each in its own way;
            ``None``: there are no lines.
    """

    members: tuple[Member, ...]
    number: int
    progress: float
    size: tuple[int, int] | None = None
    line: int | None = None


@contextmanager
def _without_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let a forward pass take these for constants, so that the backward pass leaves out what only they need."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:  # a tensor whose gradient stays off would count as a fixed one ever after
        for parameter in parameters:
            parameter.requires_grad_(True)


class Trainer:
    """Joint training, one step at a time: any members of a population, one optimizer, one stream of batches.

    Args:
        optimizer: Over the bank that the members are bound to.
        batches: Training data.
        schedule: Progress of the whole search → factor on the learning rate.
        label_smoothing: In [0, 1): share of the target that is spread over all classes.
        precision: Of the products; loss, weights and moments are float32 always.
        lr_scale: ``"parameter-ratio"``: learning rate and weight decay times ``|θ_reference| / |θ_member|`` (Painter's
            report); ``"none"``: the same for all.
        reference_parameters: Parameters of the seed network, ``|θ_reference|``; only for ``"parameter-ratio"``.
        hit_power: p of co-evolution's weights in the loss of members that are trained together: an example counts
            ``(1 + hits)^-p``, where hits are the members before this one in the update that get it right; 0: all alike.
        vote_weight: w in [0, 1): members that are trained together learn from each other's vote, by a loss of
            ``(1 - w) · cross-entropy + w · cross-entropy to the mean probabilities of the others in the update``, which
            are taken as given (Zhang et al. 2018, whose divergence has the same gradient); 0: from the labels alone.

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
        hit_power: float = 0.0,
        vote_weight: float = 0.0,
    ) -> None:
        check_range("label_smoothing", label_smoothing, low=0, high=0.999)
        check_choice("precision", precision, get_args(Precision))
        check_choice("lr_scale", lr_scale, get_args(LrScale))
        if lr_scale == "parameter-ratio" and not reference_parameters:
            raise ConfigError(
                "lr_scale: 'parameter-ratio' needs reference_parameters, the number of parameters of the seed network; "
                f"got {reference_parameters!r}"
            )
        check_range("hit_power", hit_power, low=0, high=64)
        check_range("vote_weight", vote_weight, low=0, high=0.999)
        self.hit_power = hit_power
        self.vote_weight = vote_weight
        self.optimizer = optimizer
        self.updates_at_once = 1
        self.batches = batches
        self.batch_size = batches.batch_size
        self.schedule = schedule
        self.label_smoothing = label_smoothing
        self.precision: Precision = precision
        self.lr_scale: LrScale = lr_scale
        self.reference_parameters = reference_parameters
        self.loss: Loss = self._cross_entropy

    def _cross_entropy(self, x: Tensor, logits: Tensor, classes: Tensor) -> Tensor:
        return F.cross_entropy(logits, classes, label_smoothing=self.label_smoothing)

    def ratio(self, member: Member) -> float:
        """Factor on the member's learning rate and weight decay: α' = α · |θ_reference| / |θ_member|, or 1."""
        if self.lr_scale == "none" or self.reference_parameters is None:
            return 1.0
        return self.reference_parameters / num_parameters(member.genome)

    def sync(self, copies: Mapping[BlockId, BlockId] | None = None) -> None:
        """Bring the optimizer in line with the bank after members were born or dropped.

        Args:
            copies: New entry → the one whose weights it begins with, and whose moments it takes; ``None``: all new
                ones begin with fresh moments.
        """
        self.optimizer.sync()
        for copy, source in (copies or {}).items():
            self.optimizer.copy_state(source, copy)

    def slow(self, block_ids: Iterable[BlockId], rate: float) -> None:
        """Train some entries more slowly than the others, until the next call (see `BankOptimizer.slow`).

        Args:
            block_ids: Entries.
            rate: In [0, 1]: factor on their learning rate; 0: they stay as they are, moments too, and get no gradient.
        """
        self.optimizer.slow(block_ids, rate)

    def step(
        self,
        member: Member,
        number: int,
        progress: float,
        size: tuple[int, int] | None = None,
        line: int | None = None,
    ) -> float:
        """Train ``member`` on batch ``number``.

        Only tensors that the member binds are moved. Running statistics are not written.

        Args:
            member: Put into training mode.
            number: Of the step, from 0: chooses the batch.
            progress: Of the whole search, 0 to 1: drives the schedule.
            size: Height and width that the images are shrunk to, for a member whose head pools globally; ``None``: as
                they are.
            line: Number of the member's line, whose augmentation is taken (see `BatchStream`); ``None``: that of all.

        Returns:
            The loss before the update.

        Raises:
            GraftworkError: If the loss is not finite; no weight has been moved by this step.
        """
        return self.run([Update((member,), number, progress, size, line)])

    def step_together(
        self, members: Sequence[Member], number: int, progress: float, size: tuple[int, int] | None = None
    ) -> float:
        """Train several members on batch ``number`` by one update; what they have in common runs once, both ways.

        Every tensor is moved by the mean of the gradients of those members that bind it, so one that a member has for
        itself moves as if that member were trained alone. Rate and decay are scaled by the mean of the members'
        ratios.

        With `hit_power` the members' order matters: each learns most from what those before it get wrong, as
        co-evolution would choose it after them. Weights of a member are scaled to a mean of 1. With `vote_weight` they
        weigh both parts of the loss.

        Args:
            members: Different ones over one bank, drawn in this order; put into training mode.
            number: As in `step`.
            progress: As in `step`.
            size: As in `step`.

        Returns:
            The mean of the members' losses before the update.

        Raises:
            GraftworkError: If a loss is not finite; no weight has been moved by this step.
        """
        return self.run([Update(tuple(members), number, progress, size)])

    def run(self, updates: Sequence[Update]) -> float:
        """Make updates one after the other.

        Returns:
            The sum of their losses.
        """
        total = 0.0
        for update in updates:
            total += self.gradients(update)
            self.move(update)
        return total

    def gradients(self, update: Update, part: slice | None = None) -> float:
        """The first half of an update: leave its gradients in the tensors that its members bind.

        Args:
            update: Its members are put into training mode.
            part: Images of the batch to learn from; ``None``: all. Statistics of norms are then those of the part, and
                so is the mean that `hit_power` scales to 1.

        Returns:
            The mean of the members' losses.

        Raises:
            GraftworkError: If a loss is not finite.
        """
        alone = len(update.members) == 1
        x, y = self.batches.batch(update.number, update.line if alone else None, part)
        if update.size is not None:
            x = shrink(x, update.size)
        self.optimizer.zero_grad()
        for member in update.members:
            member.train()
        with _without_gradients(self.optimizer.frozen_parameters()), in_precision(self.precision, x.device):
            if alone and update.size is None:
                found = {0: update.members[0](x)}
            else:
                found = dict(walk(update.members, x, "train"))
        logits = [found[index] for index in range(len(update.members))]
        losses = self._losses(update, x, logits, y)
        torch.autograd.backward([loss for loss, _ in losses])
        if not alone:
            uses = Counter(tensor for member in update.members for tensor in member.parameters_by_key().values())
            for parameter, count in uses.items():
                if count > 1 and parameter.grad is not None:
                    parameter.grad.div_(count)
        return sum(value for _, value in losses) / len(losses)

    def move(self, update: Update) -> None:
        """The second half: move every tensor that has a gradient."""
        ratio = sum(self.ratio(member) for member in update.members) / len(update.members)
        self.optimizer.step(self.schedule(update.progress) * ratio, ratio)

    def _losses(
        self, update: Update, x: Tensor, logits: Sequence[Tensor], labels: Tensor
    ) -> list[tuple[Tensor, float]]:
        """Of each member, as a tensor and as a number."""
        found: list[tuple[Tensor, float]] = []
        hits = torch.zeros_like(labels) if self.hit_power and len(logits) > 1 else None
        for member, own, vote in zip(update.members, logits, self._votes(logits), strict=True):
            weights = None if hits is None else (1.0 + hits) ** -self.hit_power
            found.append(self._checked_loss(member, x, own, labels, update.number, weights=weights, vote=vote))
            if hits is not None:
                hits += own.detach().argmax(1) == labels
        return found

    def _votes(self, logits: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """For each member the mean of the others' probabilities [B, classes]; ``None``: it learns from labels alone."""
        if not self.vote_weight or len(logits) < 2:
            return [None] * len(logits)
        found = [own.detach().float().softmax(1) for own in logits]
        return [torch.stack(found[:index] + found[index + 1 :]).mean(0) for index in range(len(found))]

    def _checked_loss(
        self,
        member: Member,
        x: Tensor,
        logits: Tensor,
        labels: Tensor,
        number: int,
        *,
        weights: Tensor | None = None,
        vote: Tensor | None = None,
    ) -> tuple[Tensor, float]:
        logits = logits.float()
        if weights is None:
            loss = self.loss(x, logits, labels)
        else:
            each = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing, reduction="none")
            loss = (each * weights).sum() / weights.sum()
        if vote is not None:
            each = F.cross_entropy(logits, vote, reduction="none")
            told = each.mean() if weights is None else (each * weights).sum() / weights.sum()
            loss = (1 - self.vote_weight) * loss + self.vote_weight * told
        value = float(loss.detach())
        if not isfinite(value):
            raise GraftworkError(
                f"training: the loss of member {member.genome.id[:8]} is {value} at step {number}; "
                "lower the learning rates of the recipe, or check the images for broken values"
            )
        return loss, value
