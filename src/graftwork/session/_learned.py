"""A trunk that is trained along with the members: the transform that all of them read images through."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from graftwork._files import damaged
from graftwork.errors import ConfigError
from graftwork.networks.execution import InputTransform
from graftwork.runs import RunFolder
from graftwork.training import Beside, Rule
from graftwork.trunks import Trunk
from graftwork.typing import Shape

WEIGHTS = "trunk.safetensors"
"""File of a run that holds the trunk's weights as training left them."""

_PASS = 32
"""Images in a pass without gradients: the features of many are smaller than what a trunk makes on the way."""

_HOLES = 1.4  # as in the estimate of members


@dataclass(frozen=True, eq=False)
class LearnedTransform(InputTransform):
    """From stored images to normalised features of a trunk, through which gradients reach its weights.

    Args:
        trunk: Trunk, whose weights are free.
        images: Channels, height and width of an image.
        features: Channels, height and width of its features.
    """

    trunk: Trunk
    images: Shape
    features: Shape

    @cached_property
    def flops(self) -> int:
        """FLOPs of the trunk for one image."""
        return self.trunk.flops(self.images)

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8 images [B, H, W, C] into floats [B, C', h, w], channels last in memory."""
        parts = [images] if torch.is_grad_enabled() else torch.split(images, _PASS)
        return InputTransform.__call__(self, torch.cat([self.trunk.features(part) for part in parts]))

    def beside(self, rate: float, device: torch.device) -> Beside:
        """The trunk's weights, for the optimizer: moved by Adam at this rate, times the recipe's schedule."""
        self.trunk.to(device)
        return Beside("trunk", self.trunk.weights(), Rule("adam", lr=rate))

    def left(self, most: int | None, batch_size: int) -> int | None:
        """What the trunk leaves of the memory that a process may take, in bytes.

        Raises:
            ConfigError: If that is nothing.
        """
        needed = round(_HOLES * self.trunk.memory(self.images, batch_size))
        if most is not None and needed >= most:
            raise ConfigError(
                f"memory: expected a trunk that trains in {most / 1e9:.3g} GB, got one that takes about "
                f"{needed / 1e9:.3g} GB; lower batch_size, raise max_memory, or take it frozen, without trunk_rate"
            )
        return None if most is None else most - needed


def save_trunk(run: RunFolder, transform: LearnedTransform) -> None:
    """Store the weights that training left."""
    run.save_tensors(WEIGHTS, {name: weight.detach() for name, weight in transform.trunk.weights().items()})


def load_trained(run: RunFolder, trunk: Trunk) -> None:
    """Give a trunk the weights that a run has trained, if it has."""
    if run.has(WEIGHTS):
        with damaged(f"{run.path / WEIGHTS}"):
            trunk.load(run.load_tensors(WEIGHTS))


def moments_of(stored: Mapping[str, Any]) -> InputTransform:
    """How features were normalised in a run, by what ``provenance.json`` says of its trunk."""
    return InputTransform(tuple(map(float, stored["mean"])), tuple(map(float, stored["std"])))
