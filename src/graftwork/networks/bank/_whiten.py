"""Filters of a whitening stem."""

import torch
from torch import Tensor
from torch.nn import functional as F

_MOST_VALUES = 2**24
"""Values of patches that are looked at: of large images fewer are taken, spread over all."""


def whitening_filters(
    images: Tensor, kernel_size: int, out_channels: int, *, stride: int = 1, epsilon: float = 5e-4
) -> Tensor:
    """Filters whose responses to image patches are uncorrelated and of variance 1 (PCA whitening; Page 2018).

    Args:
        images: Normalised float images [N, C, H, W]; a few thousand are plenty.
        kernel_size: Side of the patches.
        out_channels: Number of filters, even: the ``out_channels / 2`` strongest components, then the same with the
            sign flipped, so that an activation after them loses nothing (Jordan 2024).
        stride: Pixels between two patches.
        epsilon: Value added to each variance (in the images' own units), so that weak components are not blown up.

    Returns:
        Filters [out_channels, C, kernel_size, kernel_size].
    """
    channels = images.shape[1]
    values = images.numel() * kernel_size**2 // stride**2
    images = images[:: -(-values // _MOST_VALUES)]
    patches = (
        F.unfold(images.float(), kernel_size, stride=stride).transpose(1, 2).reshape(-1, channels * kernel_size**2)
    )
    patches = patches.double()
    patches = patches - patches.mean(dim=0)
    covariance = patches.T @ patches / len(patches)
    variances, components = torch.linalg.eigh(covariance)  # in rising order
    # eigh may return either sign of a component: choose one, so that machines agree
    signs = components.gather(0, components.abs().argmax(dim=0, keepdim=True)).sign()
    scaled = (components * signs / torch.sqrt(variances + epsilon)).T.flip(0)
    half = scaled[: out_channels // 2].float().reshape(-1, channels, kernel_size, kernel_size)
    return torch.cat([half, -half]).contiguous(memory_format=torch.channels_last)
