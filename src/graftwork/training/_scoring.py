"""Scorer: which validation examples each member gets right."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from graftwork.errors import DataError, InputError
from graftwork.metrics import Metric, balanced_accuracies, class_scores
from graftwork.networks import Member, recalibrate
from graftwork.networks.execution import InputTransform, shared_flops, walk
from graftwork.networks.genome import Genome
from graftwork.training._batches import Images, take_images
from graftwork.training._precision import Precision, in_precision


@dataclass(frozen=True)
class Evaluation:
    """What members say about a set of examples.

    Args:
        predicted: Class of the largest logit, int64 [members, N].
        labels: True classes, int64 [N].
        flops: FLOPs of what was run, counted from the genomes.
        metric: What members are compared by.
        log_likelihoods: Log-probability of the true class, float32 [members, N]; ``None``: not known.
    """

    predicted: NDArray[np.int64]
    labels: NDArray[np.int64]
    flops: int
    metric: Metric = "accuracy"
    log_likelihoods: NDArray[np.float32] | None = None

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which examples each member gets right: bool [members, N]."""
        return np.equal(self.predicted, self.labels)

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """Each member by the metric, float64 [members]; more is better, so of the log loss it is the negative.

        Raises:
            InputError: If the metric is the log loss and there are no log-likelihoods.
        """
        if self.metric == "balanced-accuracy":
            return balanced_accuracies(self.correct, self.labels)
        if self.metric == "macro-f1":
            classes = 1 + int(max(self.predicted.max(), self.labels.max()))
            return np.array([class_scores(row, self.labels, classes).macro_f1 for row in self.predicted])
        if self.metric == "log-loss":
            if self.log_likelihoods is None:
                raise InputError(
                    "scores: expected log-likelihoods for the log loss, got none; score by metric log-loss"
                )
            return np.asarray(self.log_likelihoods.mean(axis=1, dtype=np.float64))
        return np.asarray(np.count_nonzero(self.correct, axis=1) / len(self.labels))


class Scorer:
    """Scores members on a fixed set of images, each prefix that they share computed once.

    A score depends on genome, weights and calibration images alone. Before every scoring, statistics are made again
    from the calibration images, in evaluation order; the scored images never touch them. The result is the same to the
    bit as scoring the members one by one.

    Args:
        images: Images to score on, uint8 [N, H, W, C].
        labels: Classes of the images [N].
        transform: Transform from bytes to network input.
        calibration: A fixed selection of the *training* images, uint8 [n, H, W, C]; run as one batch.
        batch_size: Number of images in one pass; it affects the bits of the result, so keep it fixed over a run.
        precision: Precision of the products.
        device: Device to score on; ``None``: where the images are.
        metric: What members are compared by.

    Raises:
        DataError: If there are no images or calibration images, or labels do not match the images.
    """

    def __init__(
        self,
        images: Images,
        labels: Tensor | NDArray[Any],
        *,
        transform: InputTransform,
        calibration: Images,
        batch_size: int = 500,
        precision: Precision = "float32",
        device: torch.device | str | None = None,
        metric: Metric = "accuracy",
    ) -> None:
        self._labels = torch.as_tensor(np.asarray(labels), dtype=torch.int64)
        if len(images) == 0 or len(images) != len(self._labels):
            raise DataError(
                f"scoring: expected one label for each image, and at least one image, got {len(images)} images "
                f"and {len(self._labels)} labels"
            )
        if len(calibration) == 0:
            raise DataError("scoring: expected calibration images, from which statistics are made, got none")
        self._images = images
        self._calibration = calibration
        self.transform = transform
        self.batch_size = batch_size
        self.precision: Precision = precision
        self._device = device
        self.metric: Metric = metric

    @property
    def num_images(self) -> int:
        """Number of images to score on."""
        return len(self._images)

    @property
    def num_calibration(self) -> int:
        """Number of images that statistics are made from."""
        return len(self._calibration)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Classes of the images to score on, int64 [N]."""
        labels: NDArray[np.int64] = self._labels.numpy()
        return labels

    def shard(self, part: slice) -> "Scorer":
        """A scorer for some of the images; where these are whole batches, it gives the same bits."""
        return Scorer(
            self._images[part],
            self._labels[part],
            transform=self.transform,
            calibration=self._calibration,
            batch_size=self.batch_size,
            precision=self.precision,
            device=self._device,
            metric=self.metric,
        )

    def _input(self, images: Images, part: Tensor | slice) -> Tensor:
        taken = take_images(images, part)
        return self.transform(taken if self._device is None else taken.to(self._device))

    def recalibrate(self, members: Sequence[Member]) -> None:
        """Make the members' running statistics from the calibration images."""
        x = self._input(self._calibration, slice(None))
        with in_precision(self.precision, x.device):
            recalibrate(list(members), x)

    def _parts(self, images: Images) -> list[slice]:
        count = len(images)
        return [slice(start, min(start + self.batch_size, count)) for start in range(0, count, self.batch_size)]

    def _pass(self, members: Sequence[Member], images: Images, part: slice) -> Iterator[tuple[int, Tensor]]:
        x = self._input(images, part)
        with in_precision(self.precision, x.device):
            for index, logits in walk(members, x, "evaluate"):
                yield index, logits.float().cpu()

    @torch.no_grad()
    def evaluate(self, members: Sequence[Member]) -> Evaluation:
        """Recalibrate, then predict the examples batch by batch; logits are not kept, so large populations fit.

        Args:
            members: Members over one bank; their weights, gradients and mode are left alone.
        """
        self.recalibrate(members)
        shape = len(members), len(self._labels)
        predicted = np.zeros(shape, dtype=np.int64)
        likelihoods = np.zeros(shape, dtype=np.float32)
        for part in self._parts(self._images):
            for index, logits in self._pass(members, self._images, part):
                predicted[index, part] = logits.argmax(1).numpy()
                likelihoods[index, part] = -F.cross_entropy(logits, self._labels[part], reduction="none").numpy()
        flops = self.flops([member.genome for member in members])
        return Evaluation(predicted, self.labels, flops, self.metric, likelihoods)

    def score(self, members: Sequence[Member]) -> NDArray[np.bool_]:
        """Which examples each member gets right, bool [members, N]; see `evaluate`."""
        return self.evaluate(members).correct

    @torch.no_grad()
    def glance(self, members: Sequence[Member], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """What members get right of a few examples by the statistics of these alone, without recalibration.

        It costs one pass over the examples, each prefix that members share once, and is worth as much less.

        Args:
            members: As in `evaluate`; their statistics are left alone, too.
            rows: Numbers of the examples, int64 [n], at least two.

        Returns:
            bool [members, n].
        """
        x = self._input(self._images, torch.from_numpy(rows))
        labels, correct = self._labels[torch.from_numpy(rows)], np.zeros((len(members), len(rows)), dtype=np.bool_)
        with in_precision(self.precision, x.device):
            for index, logits in walk(members, x, "train"):
                correct[index] = (logits.argmax(1).cpu() == labels).numpy()
        return correct

    @torch.no_grad()
    def logits(self, members: Sequence[Member], images: Images | None = None, *, calibrated: bool = False) -> Tensor:
        """Recalibrate, then return the logits.

        Args:
            members: As in `evaluate`.
            images: Images, uint8 [n, H, W, C]; ``None``: the scorer's own.
            calibrated: Whether the members were recalibrated since they were trained, which need not be done again.

        Returns:
            float32 [members, n, classes], on the CPU.
        """
        images = self._images if images is None else images
        classes = max((member.genome.num_classes for member in members), default=0)
        out = torch.zeros(len(members), len(images), classes)
        if not calibrated:
            self.recalibrate(members)
        for part in self._parts(images):
            for index, logits in self._pass(members, images, part):
                out[index, part] = logits
        return out

    def flops(self, genomes: Sequence[Genome]) -> int:
        """FLOPs of calibration and evaluation, counted from the genomes; shared prefixes count once."""
        return (self.transform.flops + shared_flops(genomes)) * (len(self._images) + len(self._calibration))
