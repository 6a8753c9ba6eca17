"""The rule for optimizers that nobody here knows: state of the parameter's shape, by what it holds.

Old slots stay where they are. What new ones start with is read off the old ones: a copy or an average of the weights
goes on as the new weights, what is never negative (second moments, step sizes) as its mean, everything else (first
moments, momentum, gradients before) as zero. State of any other form is refused by its name, and so is a square tensor
that may be a matrix over a dimension.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor, optim

from graftwork.errors import SurgeryError
from graftwork.surgery.carry._growth import OptimizerCarry, ParameterGrowth

_REDUCED = {"row": -1, "col": -2}
"""End of a key → the dimension that factored second moments have not (Adafactor of transformers, CAME)."""
_SAME = 0.9  # cosine with the weights from which state is taken for an average of them
_ROUNDING = 1e-4  # relative, of a symmetric matrix
_FEW = 8  # numbers, too few to tell by


Grown: TypeAlias = Mapping[Tensor, ParameterGrowth]


def by_shape(optimizer: optim.Optimizer, grown: Grown) -> OptimizerCarry:
    """Return the rule for an optimizer that has none of its own.

    Args:
        optimizer: The optimizer, with the state of all its parameters as it was before the growth.
        grown: Parameters that have grown already.

    Raises:
        SurgeryError: Its state has a form that can't be mapped; the message names the key.
    """
    refuse_state(optimizer, grown)
    copies, scales = _kinds(optimizer, grown)

    def carry(state: dict[str, Any], growth: ParameterGrowth, group: dict[str, Any]) -> dict[str, Any]:
        result = dict(state)
        for key, value in state.items():
            if not isinstance(value, Tensor) or value.dim() == 0:
                continue
            without = reduced_dim(key, value, growth.old_shape)
            if without is not None:
                result[key] = growth.place_reduced(value, without=without)
            elif key in copies and growth.parameter is not None:
                result[key] = growth.place(value, fill=growth.parameter)
            else:
                mean = float(value.double().mean()) if key in scales and value.numel() else 0.0
                result[key] = growth.place(value, fill=mean)
        return result

    return carry


def refuse_state(optimizer: optim.Optimizer, grown: Grown) -> None:
    """Refuse an optimizer whose state can't be mapped by its shape.

    Args:
        optimizer: The optimizer.
        grown: Parameters that have grown already.

    Raises:
        SurgeryError: It has such state; the message names the key.
    """
    if isinstance(optimizer, optim.LBFGS):
        raise _unknown(optimizer, "curvature pairs", "are vectors over all parameters")
    for parameter, key, value in _held(optimizer):
        shape = grown[parameter].old_shape if parameter in grown else tuple(parameter.shape)
        if (why := _refusal(key, value, shape)) is not None:
            raise _unknown(optimizer, f"state {key!r}", why)


def _held(optimizer: optim.Optimizer) -> Iterator[tuple[Tensor, str, Any]]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                yield parameter, key, value


def _refusal(key: str, value: Any, shape: tuple[int, ...]) -> str | None:
    """Why a piece of state can't be carried, None where it can."""
    if not isinstance(value, Tensor):
        plain = value is None or isinstance(value, (bool, int, float, str))
        return None if plain else f"is a {type(value).__name__}"
    if value.dim() == 0 or reduced_dim(key, value, shape) is not None:
        return None
    if tuple(value.shape) != shape:
        return f"has the shape {tuple(value.shape)} beside a parameter of {shape}"
    if not value.is_floating_point():
        return f"is stored as {value.dtype}, as quantized state in blocks is"
    square = value.dim() == 2 and shape[0] == shape[1] > 1
    symmetric = square and bool(value.any()) and bool((value - value.T).abs().max() <= _ROUNDING * value.abs().max())
    return "is a symmetric matrix, as statistics over one dimension are" if symmetric else None


def reduced_dim(key: str, value: Tensor, shape: tuple[int, ...]) -> int | None:
    """Return the dimension that a factored second moment has not, counted from the end; None for other state."""
    dim = next((dim for end, dim in _REDUCED.items() if key.endswith(end)), None)
    if dim is None or len(shape) < 2:
        return None
    expected = tuple(n for at, n in enumerate(shape) if at != len(shape) + dim)
    return dim if tuple(value.shape) == expected else None


def _kinds(optimizer: optim.Optimizer, grown: Grown) -> tuple[set[str], set[str]]:
    """Keys that hold averages of the weights, and keys that hold what is never negative; judged over all parameters."""
    inner: dict[str, list[float]] = {}
    signs: dict[str, list[bool]] = {}
    for parameter, key, value in _held(optimizer):
        weights = parameter.detach()
        if parameter in grown:
            weights = grown[parameter].old_part(weights)
        if isinstance(value, Tensor) and value.shape == weights.shape and value.dim():
            a, b = weights.double().flatten(), value.detach().double().flatten().to(weights.device)
            sums = inner.setdefault(key, [0.0, 0.0, 0.0, 0.0])
            for at, number in enumerate((float(a @ b), float(a @ a), float(b @ b), float(a.numel()))):
                sums[at] += number
            signs.setdefault(key, []).append(bool((value >= 0).all()) and bool(value.any()))
    copies = {key for key, (ab, aa, bb, n) in inner.items() if n >= _FEW and ab > _SAME * (aa * bb) ** 0.5 > 0}
    zeros = {key for key, (_, _, bb, _) in inner.items() if bb == 0.0}
    return copies, {key for key, each in signs.items() if all(each) and key not in zeros} - copies


def _unknown(optimizer: optim.Optimizer, what: str, why: str) -> SurgeryError:
    name = type(optimizer).__name__
    return SurgeryError(
        f"optimizer {name} can't be carried through a growth: its {what} {why}; make a new optimizer after the "
        "growth, or teach graftwork with register_optimizer_carry"
    )
