"""Tensors in safetensors files; never pickle."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from graftwork.errors import RunError
from graftwork.runs._atomic import write_bytes

__all__ = ["load_tensors", "save_tensors", "scoped", "unscoped"]


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to one file, as a whole. Tensors that share memory are written each for itself."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, save(plain))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors that `save_tensors` wrote.

    Raises:
        RunError: If the file is missing or damaged.
    """
    try:
        return {name: _canonical(tensor) for name, tensor in load_file(path).items()}
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing; expected a safetensors file") from error
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} can't be read ({error}); it is damaged, or no safetensors file") from error


def _canonical(tensor: Tensor) -> Tensor:
    """Channels-last strides for every 4-D tensor, as the bank has them: kernels, and so bits, depend on strides."""
    if tensor.dim() != 4:
        return tensor
    return torch.empty_like(tensor, memory_format=torch.channels_last).copy_(tensor)


def scoped(scope: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put a prefix before every name."""
    return {f"{scope}:{name}": tensor for name, tensor in tensors.items()}


def unscoped(scope: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that have the prefix, without it."""
    start = f"{scope}:"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
