"""Example inputs, and running a model without leaving a trace on it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from graftwork.errors import SurgeryError

__all__ = [
    "Call",
    "ExampleInput",
    "call_of",
    "norms_in_training",
    "other_values",
    "sandbox",
    "training_without_dropout",
]

ExampleInput: TypeAlias = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Call:
    """Arguments of one forward call."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    @property
    def size(self) -> int:
        """Numbers in all tensors of the call."""
        leaves = tree_flatten((list(self.arguments), self.keywords))[0]
        return sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))

    def run(self, model: nn.Module) -> Any:
        """Call the model without gradient; inputs are cloned, so an in-place forward can't change them."""
        arguments, keywords = tree_map(_clone, (list(self.arguments), self.keywords))
        with torch.no_grad():
            return model(*arguments, **keywords)


def _clone(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def call_of(example_input: ExampleInput) -> Call:
    """Return the call that an example input stands for.

    Args:
        example_input: One tensor, a tuple or list of positional arguments, or a mapping of keyword arguments.

    Raises:
        SurgeryError: It is none of these.
    """
    if isinstance(example_input, Tensor):
        return Call((example_input,), {})
    if isinstance(example_input, (tuple, list)):
        return Call(tuple(example_input), {})
    if isinstance(example_input, Mapping):
        return Call((), dict(example_input))
    raise SurgeryError(
        f"example_input must be a tensor, a tuple of arguments or a mapping of keyword arguments, got "
        f"{type(example_input).__name__}: pass one batch as the model's forward takes it"
    )


def other_values(call: Call) -> list[tuple[str, Call]]:
    """Return the call with other numbers in its floating-point inputs, for a forward that branches on them.

    Empty where no input is a floating-point tensor.
    """
    leaves = tree_flatten((list(call.arguments), call.keywords))[0]
    if not any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves):
        return []

    def times(value: Any, factor: float) -> Any:
        return value * factor if isinstance(value, Tensor) and value.is_floating_point() else value

    found = []
    for name, factor in (("negated", -1.0), ("enlarged", 8.0), ("zero", 0.0)):
        arguments, keywords = tree_map(lambda v, f=factor: times(v, f), (list(call.arguments), call.keywords))
        found.append((name, Call(tuple(arguments), keywords)))
    return found


@contextmanager
def norms_in_training(model: nn.Module) -> Iterator[None]:
    """Everything in evaluation mode (dropout off) but norms, which use the statistics of the batch."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):  # noqa: SLF001 - the common base of all batch norms
            module.train()
    yield


def training_without_dropout(model: nn.Module) -> None:
    """Put everything in training mode but dropout modules."""
    for module in model.modules():
        if not isinstance(module, nn.modules.dropout._DropoutNd):  # noqa: SLF001 - the common base of all dropouts
            module.training = True


@contextmanager
def sandbox(model: nn.Module) -> Iterator[None]:
    """Run a model freely inside; afterwards modes, buffers, attributes and random state are as before."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    attributes = [dict(vars(module)) for module in modules]
    buffers = [(tensor, tensor.detach().clone()) for tensor in model.buffers()]
    # A forward may install hooks or replace buffers, and note in an attribute that it has.
    registries = [_registries(module) for module in modules]
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            for module, mode, registry, attribute in zip(modules, modes, registries, attributes, strict=True):
                vars(module).clear()
                vars(module).update(attribute)
                for held, content in registry:
                    held.clear()
                    held.update(content)
                module.training = mode
            with torch.no_grad():
                for tensor, value in buffers:
                    if tensor.shape == value.shape and not _equal(tensor, value):
                        tensor.copy_(value)


def _registries(module: nn.Module) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
    """The private dictionaries of a module (hooks, buffers, …), each with a copy of what it holds."""
    return [(v, dict(v)) for k, v in vars(module).items() if k.startswith("_") and isinstance(v, dict)]


def _equal(first: Tensor, second: Tensor) -> bool:
    return bool(((first == second) | ((first != first) & (second != second))).all())  # noqa: PLR0124 - NaN
