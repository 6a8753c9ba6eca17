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
        hidden_features: width of its hidden layer.
        residual: whether it starts from the mean of the members; see ``StackedCombiner``.
        num_folds: parts of the blend split for cross-fitting, at least 2.
        max_epochs: epochs at most, at least 1.
        patience: epochs without a better held-out likelihood after which to stop.
        batch_size: examples of a step.
        learning_rate: of AdamW.
        weight_decay: of AdamW.

    Raises:
        ConfigError: a number out of range.
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
            msg = f"num_folds has to be at least 2, and all other counts at least 1, but got {self!r}"
            raise ConfigError(msg)


@dataclass(frozen=True, eq=False, kw_only=True)
class StackFit:
    """A trained stacker and how it would do on new examples.

    Attributes:
        combiner: trained on the whole blend split for ``num_epochs``.
        num_epochs: the number of epochs with the best held-out likelihood.
        held_out: float [example, class]: log-probabilities of each example by the fold model that never saw it, after
            that many epochs.
        held_out_nll: mean negative log-likelihood of held-out examples after each epoch tried, from 0 on, in nats.
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
        outputs: float [example, member, feature], of frozen members on examples that none of them was trained on.
        labels: int64 [example].
        num_classes: of the prediction.
        generator: source of folds, initial weights and the order of examples. The result depends on nothing else.
        settings: None: the defaults.

    Raises:
        InputError: shapes that don't fit, values that aren't finite, or fewer examples than folds.
        ConfigError: settings that don't fit the data.
    """
    settings = settings or StackSettings()
    check_blend(outputs, labels)
    if len(labels) < settings.num_folds or int(labels.max()) >= num_classes:
        msg = (
            f"stacking takes at least num_folds={settings.num_folds} examples with labels in 0 … {num_classes - 1}, "
            f"but got {len(labels)} with labels up to {int(labels.max())}"
        )
        raise ConfigError(msg)
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
