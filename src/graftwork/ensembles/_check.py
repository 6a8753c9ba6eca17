"""Checks that the ensembles share."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.errors import ConfigError, InputError


def check_outputs(outputs: Tensor, num_members: int) -> None:
    """Raise InputError unless [example, member, feature] with that many members."""
    if outputs.ndim != 3 or outputs.shape[1] != num_members:
        raise InputError(
            f"outputs: expected [example, member, class] of {num_members} member(s), got shape {list(outputs.shape)}"
        )


def check_blend(outputs: NDArray[np.floating] | Tensor, labels: NDArray[np.int64] | Tensor) -> None:
    """Raise InputError unless finite [example, member, feature] and one whole label ≥ 0 for each example."""
    if outputs.ndim != 3 or labels.ndim != 1 or len(labels) != len(outputs) or 0 in outputs.shape:
        raise InputError(
            "outputs and labels: expected [example, member, class] and [example], none of them empty, "
            f"got {list(outputs.shape)} and {list(labels.shape)}"
        )
    values = torch.as_tensor(outputs)
    if not torch.isfinite(values).all():
        bad = int(torch.nonzero(~torch.isfinite(values).all(dim=2))[0, 1])
        raise InputError(
            f"outputs: expected finite numbers, but those of member {bad} aren't; did its training diverge?"
        )
    classes = torch.as_tensor(labels)
    if classes.is_floating_point() or int(classes.min()) < 0:
        raise InputError(f"labels: expected whole numbers ≥ 0, got {classes.dtype} from {classes.min().item()}")


def check_stackable(labels: Tensor, num_classes: int) -> None:
    """Raise ConfigError unless each class has two labels, one for each side of cross-fitting, and no other is there.

    Args:
        labels: Class of each example, or of each group where examples are in groups, int64.
        num_classes: Number of classes.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    if len(counts) > num_classes or int(counts.min()) < 2:
        raise ConfigError(
            f"stacking: expected labels in 0 … {num_classes - 1}, two examples of each at least (groups, if any), got "
            f"labels up to {len(counts) - 1} and {int(counts.min())} examples of {int(counts.argmin())}; give a larger "
            "blend split"
        )
