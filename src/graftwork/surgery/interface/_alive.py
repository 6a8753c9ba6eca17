"""Whether new outputs, tokens and channels work: finite on new ids, and reached by a gradient."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.errors import SurgeryError
from graftwork.surgery._calls import Call, sandbox
from graftwork.surgery._trace import Trace, output_tensors
from graftwork.surgery.interface._places import Place
from graftwork.surgery.layers import gradients

_IDS = ("input_ids", "ids", "tokens")


def refuse_unknown_tokens(model: nn.Module, call: Call, size: int, extra: int) -> Call | None:
    """Run the model on new token ids; returns the call, None where it is not clear which of its tensors holds ids.

    Args:
        model: The grown model; left as it was.
        call: A call of it.
        size: Number of tokens before.
        extra: New tokens.

    Raises:
        SurgeryError: The forward fails on them, or gives infinite numbers.
    """
    named = [name for name, value in call.keywords.items() if name.endswith(_IDS) and _is_index(value)]
    given = [at for at, value in enumerate(call.arguments) if _is_index(value)]
    if not named and len(given) != 1:
        return None

    def new(value: Tensor) -> Tensor:
        value = value.clone()
        count = min(extra, value.shape[-1])
        value[..., -count:] = torch.arange(size + extra - count, size + extra, device=value.device)
        return value

    arguments: list[Any] = [
        new(value) if not named and at in given else value for at, value in enumerate(call.arguments)
    ]
    keywords = {name: new(value) if name in named else value for name, value in call.keywords.items()}
    tokens = replace(call, arguments=tuple(arguments), keywords=keywords)
    try:
        with sandbox(model):
            model.eval()
            outputs = [t for t in output_tensors(tokens.run(model)) if t.is_floating_point()]
    except Exception as error:
        raise SurgeryError(
            f"the grown model fails on its new ids ({type(error).__name__}: {error}); everything was put back. Its "
            "code probably holds their number, or another table of as many rows: name that one too"
        ) from error
    if any(bool(output.isnan().any()) for output in outputs):
        raise SurgeryError("the grown model gives NaN for its new ids; everything was put back")
    return tokens


def _is_index(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.int64, torch.int32) and value.dim() > 0


def refuse_asleep(
    model: nn.Module, trace: Trace, places: Sequence[Place], call: Call, *, size: int, excused: Sequence[str]
) -> None:
    """Refuse new rows that would never train, behind a rectifier, say, or a gain of zero.

    Args:
        model: The grown model; left as it was.
        trace: The trace of it.
        places: What has grown.
        call: A call that uses what is new.
        size: Length before.
        excused: Tensors whose new rows this call does not use.

    Raises:
        SurgeryError: A gradient reaches a tensor's old part only.
    """
    grown = [p for p in places if isinstance(trace.tensors[p.name], nn.Parameter) and p.name not in excused]
    parameters = [trace.tensors[place.name] for place in grown]
    found = gradients(model, call, parameters)  # type: ignore[arg-type]
    for place, gradient in zip(grown, found or [], strict=False):
        if gradient is None:
            continue
        old = bool(gradient.narrow(place.dim, 0, size).any())
        new = bool(gradient.narrow(place.dim, size, gradient.shape[place.dim] - size).any())
        if old and not new:
            raise SurgeryError(
                f"the new part of {place.name!r} would not train: no gradient reaches it, though it reaches the old "
                "one; everything was put back. Something behind it stops zeros, as a rectifier does: take init='mean'"
            )
