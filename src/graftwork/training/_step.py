"""Trainer: one optimization step of one member on one batch."""

from collections.abc import Callable
from math import isfinite
from typing import Literal, get_args

from torch import Tensor
from torch.nn import functional as F

from graftwork.errors import ConfigError, GraftworkError
from graftwork.genome import num_parameters
from graftwork.member import Member
from graftwork.training._batches import BatchStream
from graftwork.training._optimizer import BankOptimizer
from graftwork.training._options import check_choice, check_range
from graftwork.training._precision import Precision, in_precision
from graftwork.training._schedules import Schedule

__all__ = ["Loss", "LrScale", "Trainer"]

LrScale = Literal["none", "parameter-ratio"]

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Network input [B, C, H, W], logits float32 [B, classes] and classes int64 [B] → mean loss of the batch."""


class Trainer:
    """Joint training, one step at a time: any member of a population, one optimizer, one stream of batches.

    Args:
        optimizer: Over the bank that the members are bound to.
        batches: Training data.
        schedule: Progress of the whole search → factor on the learning rate.
        label_smoothing: In [0, 1): share of the target that is spread over all classes.
        precision: Of the products; loss, weights and moments are float32 always.
        lr_scale: ``"parameter-ratio"``: learning rate and weight decay times ``|θ_reference| / |θ_member|`` (Painter's
            report); ``"none"``: the same for all.
        reference_parameters: Parameters of the seed network, ``|θ_reference|``; only for ``"parameter-ratio"``.

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
    ) -> None:
        check_range("label_smoothing", label_smoothing, low=0, high=0.999)
        check_choice("precision", precision, get_args(Precision))
        check_choice("lr_scale", lr_scale, get_args(LrScale))
        if lr_scale == "parameter-ratio" and not reference_parameters:
            raise ConfigError(
                "lr_scale: 'parameter-ratio' needs reference_parameters, the number of parameters of the seed network; "
                f"got {reference_parameters!r}"
            )
        self.optimizer = optimizer
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

    def sync(self) -> None:
        """Bring the optimizer in line with the bank after members were born or dropped."""
        self.optimizer.sync()

    def step(self, member: Member, number: int, progress: float) -> float:
        """Train ``member`` on batch ``number``.

        Only tensors that the member binds are moved. Running statistics are not written.

        Args:
            member: Put into training mode.
            number: Of the step, from 0: chooses the batch.
            progress: Of the whole search, 0 to 1: drives the schedule.

        Returns:
            The loss before the update.

        Raises:
            GraftworkError: If the loss is not finite; no weight has been moved by this step.
        """
        x, y = self.batches.batch(number)
        self.optimizer.zero_grad()
        member.train()
        with in_precision(self.precision, x.device):
            logits = member(x)
        loss = self.loss(x, logits.float(), y)
        value = float(loss.detach())
        if not isfinite(value):
            raise GraftworkError(
                f"training: the loss of member {member.genome.id[:8]} is {value} at step {number}; "
                "lower the learning rates of the recipe, or check the images for broken values"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        ratio = self.ratio(member)
        self.optimizer.step(self.schedule(progress) * ratio, ratio)
        return value
