"""What stands before an exported network: a trunk that makes features of images."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graftwork.trunks import Trunk
from graftwork.typing import Shape

_MARGIN = 0.5  # as in model.py.jinja


@dataclass(frozen=True, eq=False)
class Front:
    """A trunk, and the images that it is given.

    Args:
        trunk: Network from images to features.
        input_shape: Channels, height and width of an image.
    """

    trunk: Trunk
    input_shape: Shape

    def before(self, network: nn.Module) -> nn.Module:
        """The trunk with a network of features behind it, as one module."""
        return _Whole(self.trunk, network)


class _Whole(nn.Module):
    def __init__(self, trunk: Trunk, network: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W] with values in [0, 1]; NaN for those on another scale."""
        # members take features as bytes are taken: what is normalised was divided by 255
        outputs: Tensor = self.network(self.trunk(images) / 255)
        fits = (images.amin(dim=(1, 2, 3)) >= -_MARGIN) & (images.amax(dim=(1, 2, 3)) <= 1 + _MARGIN)
        return outputs.masked_fill(~fits[:, None], torch.nan)
