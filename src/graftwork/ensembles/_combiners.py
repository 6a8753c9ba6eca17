"""Combiners: small modules that turn the outputs of K members into one prediction."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.ensembles._check import check_outputs
from graftwork.errors import ConfigError


class MeanCombiner(nn.Module):
    """The mean of the members' probabilities, weighted or not. It has nothing to train.

    Args:
        weights: Weight of each member, not negative, with a positive sum; scaled to sum to 1.

    Raises:
        ConfigError: If a weight is negative, all are zero, or there are none.
    """

    log_weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        if not weights or min(weights) < 0 or not sum(weights) > 0:
            raise ConfigError(f"weights: expected a number ≥ 0 for each member, with a positive sum, got {weights!r}")
        shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
        self.register_buffer("log_weights", shares.log().float())

    def forward(self, outputs: Tensor) -> Tensor:
        """Combine logits [B, K, classes] to log-probabilities [B, classes]."""
        check_outputs(outputs, len(self.log_weights))
        # A weight of 0 is -inf here and adds exactly nothing.
        return torch.logsumexp(F.log_softmax(outputs, dim=2) + self.log_weights[:, None], dim=1)


def _empty_linear(num_in: int, num_out: int) -> nn.Linear:
    """Make a layer without drawing from the global generator."""
    return nn.Linear(num_in, num_out, device="meta").to_empty(device="cpu")


class LinearCombiner(nn.Module):
    """One linear layer over all members' outputs: multinomial logistic regression, fitted elsewhere.

    Args:
        num_members: K, number of members.
        num_features: Width of each member's output.
        num_classes: Number of classes of the prediction.
        log_probabilities: Whether outputs are logits, to be read as log-probabilities; otherwise they are read as they
            are.

    Raises:
        ConfigError: If a size is below 1.
    """

    def __init__(self, num_members: int, num_features: int, *, num_classes: int, log_probabilities: bool) -> None:
        super().__init__()
        sizes = (num_members, num_features, num_classes)
        if min(sizes) < 1:
            raise ConfigError(f"stacking: expected sizes ≥ 1, got {sizes!r}")
        self.num_members = num_members
        self.num_features = num_features
        self.log_probabilities = log_probabilities
        self.out = _empty_linear(num_members * num_features, num_classes)
        with torch.no_grad():
            self.out.weight.zero_()
            self.out.bias.zero_()

    @classmethod
    @torch.no_grad()
    def mean(cls, num_members: int, num_classes: int) -> "LinearCombiner":
        """The mean of the members' log-probabilities."""
        combiner = cls(num_members, num_classes, num_classes=num_classes, log_probabilities=True)
        combiner.out.weight.copy_(torch.eye(num_classes).repeat(1, num_members) / num_members)
        return combiner.requires_grad_(requires_grad=False)

    def rows(self, outputs: Tensor) -> Tensor:
        """What the layer reads, [B, K · features], of outputs [B, K, features]."""
        check_outputs(outputs, self.num_members)
        return (F.log_softmax(outputs, dim=2) if self.log_probabilities else outputs).flatten(1)

    def forward(self, outputs: Tensor) -> Tensor:
        """Combine outputs [B, K, features] to log-probabilities [B, classes]."""
        return F.log_softmax(self.out(self.rows(outputs)), dim=1)


class NetworkCombiner(nn.Module):
    """The report's hierarchical ensemble (algorithm 6): a small network that learns which member to believe.

    The members' outputs for *one* example are put side by side, standardized, and fed to FC → ReLU → FC. With
    ``residual`` the small network is added to the mean of the log-probabilities. Its hidden units are then twins whose
    outputs cancel, as those of a graft: the ensemble starts as that mean, and every weight learns corrections of it
    from the first step on.

    Args:
        num_members: K, number of members.
        num_features: Width of each member's output; the number of classes, unless other features are stacked.
        num_classes: Number of classes of the prediction.
        hidden_features: Width of the hidden layer; even with ``residual``.
        residual: Whether to start from the mean; outputs then have to be logits.
        generator: Source of the initial weights. None: they stay zero, to be loaded.

    Raises:
        ConfigError: If a size is below 1, or ``residual`` is set for features that aren't logits, or with an odd width.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        num_members: int,
        num_features: int,
        *,
        num_classes: int,
        hidden_features: int = 64,
        residual: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = (num_members, num_features, num_classes, hidden_features)
        if min(sizes) < 1 or (residual and (num_features != num_classes or hidden_features % 2)):
            raise ConfigError(
                "stacking: expected sizes ≥ 1, and where residual is set logits and an even width, got "
                f"{sizes=!r} and {residual=!r}"
            )
        self.num_members = num_members
        self.residual = residual
        self.register_buffer("mean", torch.zeros(num_members, num_features))
        self.register_buffer("scale", torch.ones(num_members, num_features))
        self.hidden = _empty_linear(num_members * num_features, hidden_features)
        self.out = _empty_linear(hidden_features, num_classes)
        with torch.no_grad():
            for layer in (self.hidden, self.out):
                bound = layer.in_features**-0.5 if generator is not None else 0.0
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.zero_()
            if residual:
                half = hidden_features // 2
                self.hidden.weight[half:] = self.hidden.weight[:half]
                self.out.weight[:, half:] = -self.out.weight[:, :half]

    @torch.no_grad()
    def standardize(self, outputs: Tensor) -> None:
        """Set mean and scale of the inputs from [B, K, features]; a constant feature keeps scale 1."""
        check_outputs(outputs, self.num_members)
        deviation = outputs.std(dim=0, correction=0)
        self.mean.copy_(outputs.mean(dim=0))
        self.scale.copy_(torch.where(deviation > 0, deviation, 1.0))

    def forward(self, outputs: Tensor) -> Tensor:
        """Combine outputs [B, K, features] to log-probabilities [B, classes]."""
        check_outputs(outputs, self.num_members)
        rows = ((outputs - self.mean) / self.scale).flatten(1)  # [B, K · features]: one row is one example
        logits: Tensor = self.out(F.relu(self.hidden(rows)))
        if self.residual:
            logits = logits + F.log_softmax(outputs, dim=2).mean(dim=1)
        return F.log_softmax(logits, dim=1)


class TemperatureCombiner(nn.Module):
    """Another combiner with its confidence corrected: softmax(log-probabilities / T). The order of classes stays.

    The correction comes after combining, since the mean of calibrated members is underconfident
    (Rahaman & Thiery 2021).

    Args:
        combiner: Combiner to correct.
        temperature: T, positive; above 1 makes it less confident.

    Raises:
        ConfigError: If the temperature isn't positive.
    """

    temperature: Tensor

    def __init__(self, combiner: "MeanCombiner | LinearCombiner | NetworkCombiner", temperature: float) -> None:
        super().__init__()
        if not temperature > 0:
            raise ConfigError(f"temperature: expected a number > 0, got {temperature!r}")
        self.combiner = combiner
        self.register_buffer("temperature", torch.tensor(temperature))

    def forward(self, outputs: Tensor) -> Tensor:
        """Combine outputs [B, K, features] to log-probabilities [B, classes]."""
        return F.log_softmax(self.combiner(outputs) / self.temperature, dim=1)


class CascadeCombiner(nn.Module):
    """The first member, in their order, that is sure enough; the last where none is.

    Args:
        temperatures: Temperature of each member, by which its confidence is calibrated; positive.
        threshold: Confidence, the probability of the likeliest class, at which a member is believed. 0: the first one
            always is; above 1: only the last.

    Raises:
        ConfigError: If there are no members, or a temperature isn't positive.
    """

    temperatures: Tensor
    threshold: Tensor

    def __init__(self, temperatures: Sequence[float], threshold: float) -> None:
        super().__init__()
        if not temperatures or not min(temperatures) > 0:
            raise ConfigError(f"cascade: expected a temperature > 0 of each member, got {temperatures!r}")
        self.register_buffer("temperatures", torch.tensor(temperatures))
        self.register_buffer("threshold", torch.tensor(threshold))

    def confidences(self, outputs: Tensor) -> Tensor:
        """Probability of each member's likeliest class, [B, K], of logits [B, K, classes]."""
        check_outputs(outputs, len(self.temperatures))
        return F.softmax(outputs / self.temperatures[:, None], dim=2).amax(dim=2)

    def settles(self, number: int, logits: Tensor) -> Tensor:
        """Which images a member settles, bool [B], by its logits [B, classes]."""
        return F.softmax(logits / self.temperatures[number], dim=1).amax(dim=1) >= self.threshold

    def stages(self, outputs: Tensor) -> Tensor:
        """Number of the member that settles each image, int64 [B], of logits [B, K, classes]."""
        sure = self.confidences(outputs) >= self.threshold
        last = torch.ones_like(sure[:, :1])
        return torch.cat([sure[:, :-1], last], dim=1).int().argmax(dim=1)  # of equals the first

    def forward(self, outputs: Tensor) -> Tensor:
        """Combine logits [B, K, classes] to log-probabilities [B, classes]."""
        log_probabilities = F.log_softmax(outputs / self.temperatures[:, None], dim=2)
        rows = self.stages(outputs)[:, None, None].expand(-1, 1, outputs.shape[2])
        return log_probabilities.gather(1, rows)[:, 0]


Combiner = MeanCombiner | LinearCombiner | NetworkCombiner | TemperatureCombiner | CascadeCombiner
"""Every combiner maps [B, K, features] to log-probabilities [B, classes], row by row."""
