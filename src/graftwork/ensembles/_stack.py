"""Training a stacker, and knowing when to stop without a further split."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.ensembles._check import check_blend
from graftwork.ensembles._combiners import StackedCombiner
from graftwork.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class StackSettings:
    """How a stacker is trained.

    Args:
        hidden_features: Width of its hidden layer.
        residual: Whether it starts from the mean of the members; see ``StackedCombiner``.
        num_folds: Number of folds of the blend split for cross-fitting, at least 2.
        max_epochs: Largest number of epochs, at least 1.
        patience: Number of epochs without a better held-out likelihood after which to stop.
        batch_size: Number of examples in a step.
        learning_rate: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.

    Raises:
        ConfigError: If a number is out of range.
    """

    hidden_features: int = 64
    residual: bool = False
    num_folds: int = 5
    max_epochs: int = 100
    patience: int = 10
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        if self.num_folds < 2 or min(self.max_epochs, self.patience, self.batch_size, self.hidden_features) < 1:
            raise ConfigError(f"stacking: expected num_folds >= 2 and all other counts >= 1, got {self!r}")


@dataclass(frozen=True, eq=False, kw_only=True)
class StackFit:
    """A trained stacker and how it would do on new examples.

    Attributes:
        combiner: The stacker, trained on the whole blend split for ``num_epochs``.
        num_epochs: The number of epochs with the best held-out likelihood.
        held_out: Log-probabilities of each example by the fold model that never saw it, after that many epochs, float
            [example, class].
        held_out_nll: Mean negative log-likelihood of held-out examples after each epoch tried, from 0 on, in nats.
    """

    combiner: StackedCombiner
    num_epochs: int
    held_out: Tensor
    held_out_nll: tuple[float, ...]


def fit_stacked(
    outputs: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    generator: torch.Generator,
    settings: StackSettings | None = None,
) -> StackFit:
    """Train a stacker on the blend split.

    How long to train is cross-fitted: the examples are dealt into folds, one model a fold trains on the other folds,
    and the epoch after which the held-out examples of all folds together are most likely is the number of epochs
    for which the final model trains on everything.

    Args:
        outputs: Outputs of frozen members on examples that none of them was trained on, float [example, member,
            feature].
        labels: True class of each example, int64 [example].
        num_classes: Number of classes of the prediction.
        generator: Source of folds, initial weights and the order of examples. The result depends on nothing else.
        settings: How to train; None: the defaults.

    Raises:
        InputError: If shapes don't fit, or values aren't finite.
        ConfigError: If the settings don't fit the data, such as fewer examples than folds.
    """
    settings = settings or StackSettings()
    check_blend(outputs, labels)
    if len(labels) < settings.num_folds or int(labels.max()) >= num_classes:
        raise ConfigError(
            f"stacking: expected at least num_folds={settings.num_folds} examples, with labels in "
            f"0 … {num_classes - 1}, got {len(labels)} with labels up to {int(labels.max())}"
        )
    outputs = outputs.detach().float()
    fold_of = torch.randperm(len(labels), generator=generator) % settings.num_folds
    runs = [
        _Run(outputs[fold_of != fold], labels[fold_of != fold], num_classes, generator, settings)
        for fold in range(settings.num_folds)
    ]
    held_out = torch.empty(len(labels), num_classes)
    best, best_epoch, likelihoods = held_out, 0, []
    for epoch in range(settings.max_epochs + 1):
        for fold, run in enumerate(runs):
            if epoch > 0:
                run.train_epoch()
            held_out[fold_of == fold] = run.predict(outputs[fold_of == fold])
        likelihoods.append(float(F.nll_loss(held_out.double(), labels)))
        if likelihoods[-1] < min(likelihoods[:-1], default=float("inf")):
            best, best_epoch = held_out.clone(), epoch
        if epoch - best_epoch >= settings.patience:
            break
    final = _Run(outputs, labels, num_classes, generator, settings)
    for _ in range(best_epoch):
        final.train_epoch()
    return StackFit(
        combiner=final.model.eval().requires_grad_(requires_grad=False),
        num_epochs=best_epoch,
        held_out=best,
        held_out_nll=tuple(likelihoods),
    )


class _Run:
    """One stacker in training on one set of examples."""

    def __init__(
        self,
        outputs: Tensor,
        labels: Tensor,
        num_classes: int,
        generator: torch.Generator,
        settings: StackSettings,
    ) -> None:
        self.outputs, self.labels = outputs, labels
        self.generator = generator
        self.batch_size = settings.batch_size
        _, num_members, num_features = outputs.shape
        self.model = StackedCombiner(
            num_members,
            num_features,
            num_classes=num_classes,
            hidden_features=settings.hidden_features,
            residual=settings.residual,
            generator=generator,
        )
        self.model.standardize(outputs)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    @torch.enable_grad()
    def train_epoch(self) -> None:
        """Go once through the examples in a new order."""
        order = torch.randperm(len(self.labels), generator=self.generator)
        for rows in torch.split(order, self.batch_size):
            loss = F.nll_loss(self.model(self.outputs[rows]), self.labels[rows])
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    @torch.no_grad()
    def predict(self, outputs: Tensor) -> Tensor:
        """Log-probabilities [example, class] of outputs [example, member, feature]."""
        result: Tensor = self.model(outputs)
        return result
