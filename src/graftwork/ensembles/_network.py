"""Training the small network of a stacker, and knowing when to stop without a further split."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork._eager import eager
from graftwork.ensembles._check import check_blend, check_stackable
from graftwork.ensembles._combiners import NetworkCombiner
from graftwork.ensembles._folds import deal_folds, mean_loss
from graftwork.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """How the network of a stacker is trained.

    Args:
        hidden_features: Width of its hidden layer.
        residual: Whether it starts from the mean of the members; see ``NetworkCombiner``. ``False``: the poster's form.
        max_epochs: Largest number of epochs, at least 1.
        patience: Number of epochs without a better held-out likelihood after which to stop.
        batch_size: Number of examples in a step.
        learning_rate: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.

    Raises:
        ConfigError: If a number is out of range.
    """

    hidden_features: int = 64
    residual: bool = True
    max_epochs: int = 100
    patience: int = 10
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        if min(self.max_epochs, self.patience, self.batch_size, self.hidden_features) < 1:
            raise ConfigError(f"stacking: expected counts >= 1, got {self!r}")


@dataclass(frozen=True, eq=False, kw_only=True)
class NetworkFit:
    """A trained network and how it would do on new examples.

    Attributes:
        combiner: The network, trained on the whole blend split for ``num_epochs``.
        num_epochs: The number of epochs with the best held-out likelihood.
        held_out: Log-probabilities of each example by the fold model that never saw it, after that many epochs, float
            [example, class].
        held_out_nll: Mean negative log-likelihood of held-out examples after each epoch tried, from 0 on, in nats.
    """

    combiner: NetworkCombiner
    num_epochs: int
    held_out: Tensor
    held_out_nll: tuple[float, ...]


def fit_network(
    outputs: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    generator: torch.Generator,
    settings: NetworkSettings | None = None,
    folds: Tensor | None = None,
    class_weights: Tensor | None = None,
) -> NetworkFit:
    """Train a network on the blend split.

    How long to train is cross-fitted: the examples are dealt into folds, one model a fold trains on the other folds,
    and the epoch after which the held-out examples of all folds together are most likely is the number of epochs
    for which the final model trains on everything. With ``residual`` that may be none: the network is then left out,
    and the result is the mean of the members' log-probabilities.

    Args:
        outputs: Outputs of frozen members on examples that none of them was trained on, float [example, member,
            feature].
        labels: True class of each example, int64 [example].
        num_classes: Number of classes of the prediction.
        generator: Source of folds, initial weights and the order of examples. The result depends on nothing else.
        settings: How to train; None: the defaults.
        folds: Fold of each example, int64 [example]. None: dealt here.
        class_weights: Weight of the examples of each class in all losses, float [class]. None: 1.

    Raises:
        InputError: If shapes don't fit, or values aren't finite.
        ConfigError: If there are too few examples (see ``check_stackable``).
    """
    settings = settings or NetworkSettings()
    check_blend(outputs, labels)
    check_stackable(labels, num_classes)
    outputs = outputs.detach().float()
    fold_of = deal_folds(labels, generator) if folds is None else folds
    make = partial(_Run, num_classes=num_classes, generator=generator, settings=settings, class_weights=class_weights)
    numbers = sorted(set(fold_of.tolist()))
    runs = [make(outputs[fold_of != fold], labels[fold_of != fold]) for fold in numbers]
    held_out = torch.empty(len(labels), num_classes)
    best, best_epoch, likelihoods = held_out, 0, []
    for epoch in range(settings.max_epochs + 1):
        for fold, run in zip(numbers, runs, strict=True):
            if epoch > 0:
                run.train_epoch()
            held_out[fold_of == fold] = run.predict(outputs[fold_of == fold])
        likelihoods.append(mean_loss(held_out, labels, class_weights))
        if likelihoods[-1] < min(likelihoods[:-1], default=float("inf")):
            best, best_epoch = held_out.clone(), epoch
        if epoch - best_epoch >= settings.patience:
            break
    final = make(outputs, labels)
    for _ in range(best_epoch):
        final.train_epoch()
    if settings.residual and best_epoch == 0:  # twins cancel within rounding, zeros exactly
        with torch.no_grad():
            final.model.out.weight.zero_()
    return NetworkFit(
        combiner=final.model.eval().requires_grad_(requires_grad=False),
        num_epochs=best_epoch,
        held_out=best,
        held_out_nll=tuple(likelihoods),
    )


class _Run:
    """One network in training on one set of examples."""

    def __init__(
        self,
        outputs: Tensor,
        labels: Tensor,
        *,
        num_classes: int,
        generator: torch.Generator,
        settings: NetworkSettings,
        class_weights: Tensor | None,
    ) -> None:
        self.outputs, self.labels, self.class_weights = outputs, labels, class_weights
        self.generator = generator
        self.batch_size = settings.batch_size
        _, num_members, num_features = outputs.shape
        self.model = NetworkCombiner(
            num_members,
            num_features,
            num_classes=num_classes,
            hidden_features=settings.hidden_features,
            residual=settings.residual,
            generator=generator,
        )
        self.model.standardize(outputs)
        self.optimizer = eager(torch.optim.AdamW)(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    @torch.enable_grad()
    def train_epoch(self) -> None:
        """Go once through the examples in a new order."""
        order = torch.randperm(len(self.labels), generator=self.generator)
        for rows in torch.split(order, self.batch_size):
            loss = F.nll_loss(self.model(self.outputs[rows]), self.labels[rows], self.class_weights)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    @torch.no_grad()
    def predict(self, outputs: Tensor) -> Tensor:
        """Log-probabilities [example, class] of outputs [example, member, feature]."""
        result: Tensor = self.model(outputs)
        return result
