"""Whether every new entry of a grown tensor will train."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from graftwork.errors import SurgeryError
from graftwork.numerics import reference_scale
from graftwork.surgery._calls import Call
from graftwork.surgery.layers import CLEARLY, ROUNDING, gradients_of, largest

_STEPS = 3


def unmoved(model: nn.Module, call: Call, news: Mapping[str, Tensor]) -> list[str]:
    """Return tensors whose new entries no gradient reaches for a reason of the model's own.

    A few steps are tried: what gets gradient in one moves, for a moment, against it. (Behind a tied head new columns
    are zero at first, so that only the embedding moves; then the last layers' writers, then the gains behind them.)
    New entries without gradient in all of them are excused if the old entries of the tensor have none either.

    Args:
        model: The grown model; left as it was.
        call: The example.
        news: Name of each grown parameter → mask of its new entries.

    Raises:
        SurgeryError: New entries would not train, though old ones beside them do.
    """
    parameters = dict(model.named_parameters())
    owns = {name: parameters[name] for name in news}
    saved = {name: parameter.detach().clone() for name, parameter in owns.items()}
    most: dict[str, tuple[float, float]] = dict.fromkeys(news, (0.0, 0.0))
    try:
        for _ in range(_STEPS):
            gradients = gradients_of(model, call, list(owns.values()))
            if gradients is None:
                break
            for (name, mask), gradient in zip(news.items(), gradients, strict=True):
                if gradient is not None:
                    new, old = gradient * mask.to(gradient.dtype), gradient * (~mask).to(gradient.dtype)
                    most[name] = (max(most[name][0], largest(new)), max(most[name][1], largest(old)))
                    _move(owns[name], new)
            if not _still(most, owns):
                break
    finally:
        with torch.no_grad():
            for name, parameter in owns.items():
                parameter.copy_(saved[name])
    return _judged(most, owns)


@torch.no_grad()
def _move(parameter: nn.Parameter, gradient: Tensor) -> None:
    """Take a step of the size of the weights."""
    if largest(gradient):
        parameter.sub_(gradient * (reference_scale(parameter) / float(gradient.double().square().mean().sqrt())))


def _still(most: Mapping[str, tuple[float, float]], owns: Mapping[str, nn.Parameter]) -> list[str]:
    """Tensors whose new entries have had no gradient but rounding so far."""
    top = max((max(pair) for pair in most.values()), default=0.0)
    return [name for name, (new, _) in most.items() if new <= top * ROUNDING * torch.finfo(owns[name].dtype).eps]


def _judged(most: Mapping[str, tuple[float, float]], owns: Mapping[str, nn.Parameter]) -> list[str]:
    """The excused, from the largest gradients of new and of old entries."""
    top = max((max(pair) for pair in most.values()), default=0.0)
    still = _still(most, owns) if top else []
    dead = [n for n in still if most[n][1] > top * CLEARLY * ROUNDING * torch.finfo(owns[n].dtype).eps]
    if dead:
        raise SurgeryError(
            f"the new channels would not train: no gradient reaches new entries of {', '.join(dead[:4])}, though it "
            "reaches the old ones; everything was put back"
        )
    return still
