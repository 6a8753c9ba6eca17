"""Checks that the ensembles share."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.errors import InputError


def check_outputs(outputs: Tensor, num_members: int) -> None:
    """Raise InputError unless [example, member, feature] with that many members."""
    if outputs.ndim != 3 or outputs.shape[1] != num_members:
        msg = (
            f"outputs have to be [example, member, class] of {num_members} member(s), "
            f"but have shape {list(outputs.shape)}"
        )
        raise InputError(msg)


def check_blend(outputs: NDArray[np.floating] | Tensor, labels: NDArray[np.int64] | Tensor) -> None:
    """Raise InputError unless finite [example, member, feature] and one whole label ≥ 0 for each example."""
    if outputs.ndim != 3 or labels.ndim != 1 or len(labels) != len(outputs) or 0 in outputs.shape:
        msg = (
            "an ensemble is fitted on outputs [example, member, class] and labels [example], none of them empty, "
            f"but the shapes are {list(outputs.shape)} and {list(labels.shape)}"
        )
        raise InputError(msg)
    values = torch.as_tensor(outputs)
    if not torch.isfinite(values).all():
        bad = int(torch.nonzero(~torch.isfinite(values).all(dim=2))[0, 1])
        msg = f"outputs have to be finite, but those of member {bad} aren't; did its training diverge?"
        raise InputError(msg)
    classes = torch.as_tensor(labels)
    if classes.is_floating_point() or int(classes.min()) < 0:
        msg = f"labels have to be whole numbers ≥ 0, but are {classes.dtype} from {classes.min().item()}"
        raise InputError(msg)
