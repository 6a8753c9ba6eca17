"""What a learner learns: batches by number, a loss, an optimizer, and how to measure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from experiments.growing._text import Corpus
from graftwork.session import Problem
from graftwork.training import Augmentation, BatchStream, generator_for

Params = Iterable[nn.Parameter]


class Task(Protocol):
    """What the training loop needs to know of a problem."""

    @property
    def batch_size(self) -> int:
        """Number of examples in a batch."""

    @property
    def clip(self) -> float | None:
        """Largest norm of the gradient; None: not limited."""

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Batch ``number``, which depends on seed and number alone: input, classes [n]."""

    def optimizer(self, parameters: Params) -> optim.Optimizer:
        """A fresh optimizer at its full rate."""

    def evaluate(self, model: nn.Module, *, examples: int | None = None) -> dict[str, float]:
        """Measure on held-out data, in evaluation mode and float32, without a change to the model.

        Args:
            model: Any model.
            examples: At most so many, the same ones every time. None takes all.

        Returns:
            ``loss`` (nats, mean) and ``accuracy``.
        """


def _measure(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    loss, right, count = 0.0, 0, 0
    with evaluation_mode(model), torch.no_grad():
        for x, y in batches:
            logits = model(x).flatten(0, -2)
            loss += float(F.cross_entropy(logits, y, reduction="sum"))
            right += int((logits.argmax(1) == y).sum())
            count += len(y)
    return {"loss": loss / count, "accuracy": right / count}


class evaluation_mode:  # noqa: N801 - a context manager reads as a function
    """Evaluation mode inside, the former mode afterwards.

    Args:
        model: Any model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._training = model, model.training

    def __enter__(self) -> nn.Module:
        return self._model.eval()

    def __exit__(self, *_: object) -> None:
        self._model.train(self._training)


@dataclass(frozen=True)
class TextTask:
    """Predict the next byte.

    Args:
        corpus: The text.
        seed: Seed of the order of windows.
        context: Bytes in a window.
        batch_size: Windows in a batch.
        lr: Learning rate of AdamW.
        windows: Number of validation windows.
    """

    corpus: Corpus
    seed: int
    context: int
    batch_size: int
    lr: float
    windows: int = 256
    clip: float | None = 1.0

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Windows at random places: bytes [B, T], the bytes that follow [B · T]."""
        generator = generator_for("text", self.seed, number)
        last = len(self.corpus.train) - self.context - 1
        return self._windows(self.corpus.train, torch.randint(0, last, (self.batch_size,), generator=generator))

    def _windows(self, text: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        taken = text[starts[:, None] + torch.arange(self.context + 1)].to(torch.int64)
        return taken[:, :-1], taken[:, 1:].flatten()

    def optimizer(self, parameters: Params) -> optim.Optimizer:
        """AdamW."""
        return optim.AdamW(parameters, lr=self.lr, betas=(0.9, 0.95), weight_decay=0.01)

    def evaluate(self, model: nn.Module, *, examples: int | None = None) -> dict[str, float]:
        """On windows that are spread evenly over the validation text; see `Task.evaluate`."""
        text = self.corpus.validation
        starts = torch.linspace(0, len(text) - self.context - 2, self.windows).to(torch.int64)
        # in the order of a fixed draw, so that the first few are spread as well
        starts = starts[torch.randperm(self.windows, generator=generator_for("windows"))][:examples]
        return _measure(model, (self._windows(text, part) for part in torch.split(starts, 64)))


@dataclass(frozen=True)
class ImageTask:
    """Classify images.

    Args:
        stream: Training batches.
        images: Network input for validation [N, C, H, W].
        labels: Classes for validation, int64 [N].
        lr: Learning rate of the optimizer.
        kind: ``"adam"`` (the paper's) or ``"sgd"`` (momentum 0.9, Nesterov, weight decay 5e-4).
    """

    stream: BatchStream
    images: Tensor
    labels: Tensor
    lr: float
    kind: str = "adam"
    clip: float | None = None

    @classmethod
    def of(cls, problem: Problem, *, seed: int, batch_size: int, lr: float, kind: str, flips: bool) -> "ImageTask":
        """Train on the training split of a problem, measure on its validation split.

        Args:
            problem: The data.
            seed: Seed of the order of batches.
            batch_size: Images in a batch.
            lr: Learning rate of the optimizer.
            kind: Kind of the optimizer, as in the class.
            flips: Whether colour images are mirrored every other epoch.
        """
        stream = BatchStream(
            problem.dataset.images,
            problem.dataset.labels,
            problem.splits.train,
            batch_size=batch_size,
            seed=seed,
            transform=problem.transform,
            augmentation=Augmentation("auto" if flips else "none"),
        )
        rows = problem.splits.validation
        return cls(stream, problem.transform(problem.images(rows)), problem.labels(rows), lr, kind)

    @property
    def batch_size(self) -> int:
        """Number of images in a batch."""
        return self.stream.batch_size

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Images [B, C, H, W], classes [B]."""
        return self.stream.batch(number)

    def optimizer(self, parameters: Params) -> optim.Optimizer:
        """Adam or SGD."""
        if self.kind == "sgd":
            return optim.SGD(parameters, lr=self.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        return optim.Adam(parameters, lr=self.lr, weight_decay=1e-6)

    def evaluate(self, model: nn.Module, *, examples: int | None = None) -> dict[str, float]:
        """On the validation split or its first images; see `Task.evaluate`."""
        pairs: Sequence[tuple[Tensor, Tensor]] = list(
            zip(torch.split(self.images[:examples], 250), torch.split(self.labels[:examples], 250), strict=True)
        )
        return _measure(model, pairs)
