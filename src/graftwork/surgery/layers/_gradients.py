"""Whether every new tensor will train: its gradient in the first or the second step."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from graftwork.errors import SurgeryError
from graftwork.numerics import reference_scale
from graftwork.surgery._calls import Call, sandbox
from graftwork.surgery._trace import output_tensors

ROUNDING = 10.0  # times the dtype's: gradients below that, relative to the largest, are rounding
CLEARLY = 1000.0  # times that: gradients above that are none
_DRAWS = 8  # most runs of a model that leaves layers out at random when it trains


def untrained(model: nn.Module, call: Call, pairs: Mapping[str, tuple[nn.Parameter, nn.Parameter]]) -> list[str]:
    """Return new parameters that no gradient reaches for a reason of the model's own; raise where the growth is it.

    A copy that starts as the identity has zeros at its ends, so its inner weights get no gradient in the first step.
    The second is tried too: what got gradient in the first moves, for a moment, against it. A tensor without
    gradient in both is excused if its original has none either (a key's bias under softmax, a bias before batch norm),
    or if it got none at all while the same tensor of another entry of a list did (an expert that nothing reaches).

    Args:
        model: The grown model; left as it was.
        call: The example.
        pairs: Name of each new parameter → the parameter, and the one that it copies.

    Returns:
        Names of the excused.

    Raises:
        SurgeryError: A new parameter would not train, though its original does.
    """
    sizes: list[float] = []
    for draw in range(_DRAWS):
        found = _sizes(model, call, pairs, draw)
        if found is None:
            return []
        sizes, before = [max(pair) for pair in zip(found, sizes or found, strict=True)], sizes
        dtype = next((new.dtype for new, _ in pairs.values()), torch.float32)
        try:
            return _judged(list(pairs), sizes[: len(pairs)], sizes[len(pairs) :], dtype)
        except SurgeryError:
            if sizes == before:  # no layer was left out at random
                raise
    return _judged(list(pairs), sizes[: len(pairs)], sizes[len(pairs) :], dtype)


def _sizes(
    model: nn.Module, call: Call, pairs: Mapping[str, tuple[nn.Parameter, nn.Parameter]], draw: int
) -> list[float] | None:
    """The largest gradients of new parameters and of their originals, in the first step or the second."""
    new = [pair[0] for pair in pairs.values()]
    both = [*new, *(pair[1] for pair in pairs.values())]
    first = gradients_of(model, call, both, draw=draw)
    if first is None:
        return None
    saved = [(parameter, parameter.detach().clone()) for parameter, g in zip(new, first, strict=False) if largest(g)]
    try:
        with torch.no_grad():
            for (parameter, _), (gradient, original) in zip(
                saved, [(g, o) for g, o in zip(first, both[len(new) :], strict=False) if largest(g)], strict=True
            ):
                assert gradient is not None
                size = reference_scale(original) / float(gradient.double().square().mean().sqrt())
                parameter.sub_(gradient * size)
        second = gradients_of(model, call, both, draw=draw) or first
    finally:
        with torch.no_grad():
            for parameter, value in saved:
                parameter.copy_(value)
    return [max(largest(a), largest(b)) for a, b in zip(first, second, strict=True)]


def _judged(names: Sequence[str], new: Sequence[float], old: Sequence[float], dtype: torch.dtype) -> list[str]:
    nothing = ROUNDING * torch.finfo(dtype).eps
    most_new, most_old = max(new, default=0.0) or 1.0, max(old, default=0.0) or 1.0
    still = [name for name, size in zip(names, new, strict=True) if size / most_new <= nothing]
    dead: list[str] = []
    for name, size, original in zip(names, new, old, strict=True):
        if name not in still or original / most_old <= CLEARLY * nothing:
            continue
        likes = [other for other in names if other not in still and _like(other, name)]
        if not (size == 0.0 and likes):
            dead.append(name)
    if dead:
        raise SurgeryError(
            f"the new layers would not train: no gradient reaches {', '.join(dead[:4])}, though it "
            "reaches the originals; everything was put back. The model may keep something (a cache, statistics) by "
            "layer, under a number that could not be found"
        )
    return still


def _like(first: str, second: str) -> bool:
    """Whether two names differ in one number only: entries of one list."""
    a, b = first.split("."), second.split(".")
    differing = [(x, y) for x, y in zip(a, b, strict=False) if x != y]
    return len(a) == len(b) and len(differing) == 1 and all(x.isdigit() for x in differing[0])


def largest(gradient: Tensor | None) -> float:
    """Return the largest size of a gradient's entries, 0 where there is none."""
    return float(gradient.abs().max()) if gradient is not None and gradient.numel() else 0.0


def gradients_of(
    model: nn.Module, call: Call, parameters: Sequence[nn.Parameter], *, draw: int = 0
) -> list[Tensor | None] | None:
    """Return gradients of a random sum of the outputs; None where the forward gives none.

    Args:
        model: The model, in training mode if it runs in that, without dropout.
        call: The example.
        parameters: The parameters.
        draw: How many random numbers are passed over, for a forward that draws its own.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    wanted = {id(parameter) for parameter in parameters}
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(id(parameter) in wanted)
        for training in (True, False):
            with sandbox(model), torch.enable_grad():
                _quiet(model, training=training)
                torch.rand(draw)
                own = call.copied()
                try:
                    outputs = [
                        t for t in output_tensors(model(*own.arguments, **own.keywords)) if t.is_floating_point()
                    ]
                    loss = _random_sum([t for t in outputs if t.requires_grad])
                    if loss is not None:
                        return list(torch.autograd.grad(loss, list(parameters), allow_unused=True))
                except Exception:  # noqa: S112 - this mode is not for this model, whatever it raises
                    continue
        return None
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _quiet(model: nn.Module, *, training: bool) -> None:
    model.eval()
    for module in model.modules():
        if training and not isinstance(module, nn.modules.dropout._DropoutNd):  # noqa: SLF001 - the base of dropouts
            module.training = True


def _random_sum(outputs: Sequence[Tensor]) -> Tensor | None:
    generator = torch.Generator().manual_seed(0)
    total: Tensor | None = None
    for output in outputs:
        weights = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
        term = (torch.nan_to_num(output, 0.0, 0.0, 0.0) * weights).sum()
        total = term if total is None else total + term
    return total
