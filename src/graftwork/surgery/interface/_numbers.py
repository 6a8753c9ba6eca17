"""Numbers and tensors of a user's own modules that hold how many outputs or inputs there are."""

import re
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._attributes import AttributeChange
from graftwork.surgery._graph import ChannelGraph

_OUTPUTS = re.compile(r"class|label|vocab|token|categor|(^|_)n?_?out(put)?s?(_|$)", re.IGNORECASE)
_INPUTS = re.compile(r"chan|in_|input|feature", re.IGNORECASE)


def is_inside(path: str, owner: str) -> bool:
    """Whether a path is that of a module or lies inside of it."""
    return not owner or f"{path}.".startswith(f"{owner}.")


def numbers(
    model: nn.Module, names: Sequence[str], size: int, extra: int, *, inputs: bool = False
) -> list[AttributeChange]:
    """Return whole numbers of the modules around some tensors whose names say that they count them: ``num_classes``.

    Args:
        model: The model, before the growth.
        names: Tensors that grow.
        size: Their length before.
        extra: New units.
        inputs: Whether inputs grow, not outputs.
    """
    kind = _INPUTS if inputs else _OUTPUTS
    return [change for change in _held(model, names, size, extra) if kind.search(change.name)]


def guessed_numbers(
    model: nn.Module, names: Sequence[str], size: int, extra: int, known: Sequence[AttributeChange]
) -> list[AttributeChange]:
    """Return all other whole numbers of the modules around that equal the length."""
    taken = {(change.path, change.name) for change in known}
    return [change for change in _held(model, names, size, extra) if (change.path, change.name) not in taken]


def _held(model: nn.Module, names: Sequence[str], size: int, extra: int) -> Iterator[AttributeChange]:
    paths: dict[str, None] = {}
    for name in names:
        steps = name.split(".")[:-1]
        paths |= {".".join(steps[:at]): None for at in range(len(steps), -1, -1)}
    for path in paths:
        module = model.get_submodule(path)
        if type(module).__module__.startswith("torch.nn"):
            continue  # the plan has those already
        for name, value in vars(module).items():
            if type(value) is int and value == size and not name.startswith("_"):
                yield AttributeChange(path, name, value, size + extra)


def refuse_left_behind(graph: ChannelGraph, names: Sequence[str], size: int, *, described: str | None = None) -> None:
    """Refuse a growth that leaves something behind which holds a number for each output and did not run.

    That is what a loss keeps inside of a model: weights of classes, smoothed targets.

    Args:
        graph: The traced model.
        names: Tensors that grow.
        size: Their length before.
        described: Path of a module whose config tells what grows in it. None for none.

    Raises:
        SurgeryError: There is such a tensor; the message names it.
    """
    if size < 2:
        return
    found = []
    for path, module in graph.model.named_modules():
        if described is not None and is_inside(path, described):
            continue
        prefix = f"{path}." if path else ""
        plain = {n: v for n, v in vars(module).items() if isinstance(v, torch.Tensor)}
        for leaf, tensor in {**plain, **module._buffers}.items():  # noqa: SLF001
            name = f"{prefix}{leaf}"
            idle = tensor is not None and name not in names and not graph.trace.uses.get(name)
            if idle and tensor.is_floating_point() and size in tensor.shape:
                found.append(name)
    if found:
        raise SurgeryError(
            f"{found[0]!r} would be left behind: it did not run on the example, and has {size} entries, as the outputs "
            "have, as weights of classes in a loss do; move it out of the model, or make it longer after the growth "
            "(take it off the model for the growth)"
        )
