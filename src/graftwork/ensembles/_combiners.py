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
        weights: one a member, not negative, with a positive sum; scaled to sum to 1.

    Raises:
        ConfigError: weights that are negative, all zero or none.
    """

    log_weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        if not weights or min(weights) < 0 or not sum(weights) > 0:
            msg = f"weights have to be numbers ≥ 0 with a positive sum, one a member, but are {weights!r}"
            raise ConfigError(msg)
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


class StackedCombiner(nn.Module):
    """The hierarchical ensemble of the report (algorithm 6): a small network that learns which member to believe.

    The members' outputs for *one* example are put side by side, standardized, and fed to FC → ReLU → FC. With
    ``residual`` the small network, whose last layer starts at zero, is added to the log of the mean probability:
    the ensemble then starts as the mean and learns only corrections of it.

    Args:
        num_members: K.
        num_features: of each member's output; the number of classes, unless other features are stacked.
        num_classes: of the prediction.
        hidden_features: width of the hidden layer.
        residual: whether to start from the mean; outputs then have to be logits.
        generator: source of the initial weights. None: leave them at zero, to be loaded.

    Raises:
        ConfigError: a size below 1, or ``residual`` on features that aren't logits.
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
        if min(sizes) < 1 or (residual and num_features != num_classes):
            msg = f"sizes have to be ≥ 1, and residual stacking takes logits, but got {sizes=!r} and {residual=!r}"
            raise ConfigError(msg)
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
                self.out.weight.zero_()

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
            logits = logits + torch.logsumexp(F.log_softmax(outputs, dim=2), dim=1)
        return F.log_softmax(logits, dim=1)


class TemperatureCombiner(nn.Module):
    """Another combiner with its confidence corrected: softmax(log-probabilities / T). The order of classes stays.

    The correction comes after combining, since the mean of calibrated members is underconfident
    (Rahaman & Thiery 2021).

    Args:
        combiner: what to correct.
        temperature: T, positive; above 1 makes it less sure.

    Raises:
        ConfigError: a temperature that isn't positive.
    """

    temperature: Tensor

    def __init__(self, combiner: "MeanCombiner | StackedCombiner", temperature: float) -> None:
        super().__init__()
        if not temperature > 0:
            msg = f"temperature has to be positive, but is {temperature!r}"
            raise ConfigError(msg)
        self.combiner = combiner
        self.register_buffer("temperature", torch.tensor(temperature))

    def forward(self, outputs: Tensor) -> Tensor:
        """Combine outputs [B, K, features] to log-probabilities [B, classes]."""
        return F.log_softmax(self.combiner(outputs) / self.temperature, dim=1)


Combiner = MeanCombiner | StackedCombiner | TemperatureCombiner
"""Every combiner maps [B, K, features] to log-probabilities [B, classes], row by row."""
