"""Inputs on which a checkpoint is compared before and after."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from graftwork.errors import SurgeryError

_ROWS, _LENGTH = 2, 16


def random_inputs(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor] | None:
    """Return one batch of random inputs for a Hugging Face model; None where its kind of input is not known.

    Args:
        model: The model; its config says how many tokens there are, or how large images are.
        dtype: Precision of images.
    """
    generator = torch.Generator().manual_seed(0)
    config: Any = model.config
    name = getattr(model, "main_input_name", "input_ids")
    if name == "input_ids" and isinstance(tokens := getattr(config, "vocab_size", None), int):
        length = min(_LENGTH, int(getattr(config, "max_position_embeddings", None) or _LENGTH))
        names = ["input_ids", *(["decoder_input_ids"] if getattr(config, "is_encoder_decoder", False) else [])]
        return {one: torch.randint(tokens, (_ROWS, length), generator=generator) for one in names}
    if name == "pixel_values" and isinstance(channels := getattr(config, "num_channels", None), int):
        size = getattr(config, "image_size", None) or 224
        sides = (size, size) if isinstance(size, int) else tuple(size)[-2:]
        return {name: torch.randn((_ROWS, channels, *sides), generator=generator).to(dtype)}
    return None


def given_inputs(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return one batch from a safetensors file: the model's arguments by their names.

    Args:
        path: The file.
        dtype: Precision that floating-point arguments get.

    Raises:
        SurgeryError: The file can't be read.
    """
    try:
        found: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise SurgeryError(
            f"{path}: expected a safetensors file with the model's arguments, such as input_ids, got {error}"
        ) from error
    if not found:
        raise SurgeryError(f"{path}: expected the model's arguments, such as input_ids, got an empty file")
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in found.items()}


def examples(model: nn.Module, dtype: torch.dtype, inputs: Path | None) -> dict[str, dict[str, Tensor]]:
    """Return batches by name: random inputs, and those of a file.

    Args:
        model: The model.
        dtype: Its precision.
        inputs: The file. None for random inputs alone.

    Raises:
        SurgeryError: There are none.
    """
    found: dict[str, dict[str, Tensor]] = {}
    if (drawn := random_inputs(model, dtype)) is not None:
        found["random inputs"] = drawn
    if inputs is not None:
        found["given inputs"] = given_inputs(inputs, dtype)
    if not found:
        raise SurgeryError(
            f"inputs: expected one batch, as {type(model).__name__} takes neither tokens nor images alone, got none; "
            "give a safetensors file of its arguments by their names"
        )
    return found
