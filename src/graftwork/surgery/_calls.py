"""Example inputs, and running a model without leaving a trace on it."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from graftwork.errors import SurgeryError
from graftwork.surgery._snapshot import Snapshot

ExampleInput: TypeAlias = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
Batches: TypeAlias = Iterable[tuple[ExampleInput, Any]]
"""Pairs of inputs and targets."""
Loss: TypeAlias = Callable[[Any, Any], Tensor]
"""From a model's output and a target to one number, a mean over the batch."""

_MOST_SAID = 300
EVALUATION, TRAINING, NORMS = "evaluation", "training", "training norms"
"""The modes in which a model is run: evaluation; all in training but dropout modules; only the norms in training."""


@dataclass(frozen=True)
class Call:
    """Arguments of one forward call."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    @property
    def size(self) -> int:
        """Numbers in all tensors of the call."""
        return sum(leaf.numel() for leaf in self.leaves() if isinstance(leaf, Tensor))

    @property
    def example_input(self) -> ExampleInput:
        """What `call_of` made the call from."""
        return self.keywords or self.arguments

    def copied(self) -> "Call":
        """Return the call with tensors of its own, which an in-place forward may change."""
        arguments, keywords = tree_map(_clone, (list(self.arguments), self.keywords))
        return replace(self, arguments=tuple(arguments), keywords=keywords)

    def around(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which the model is run: here nothing is set."""
        return nullcontext()

    def run(self, model: nn.Module) -> Any:
        """Call the model without gradient; the call's own tensors stay as they are."""
        call = self.copied()
        with torch.no_grad(), self.around(model):
            return model(*call.arguments, **call.keywords)

    def other_size(self) -> "tuple[str, Call] | None":
        """Return the call with one row of its batch (two where it has one), and what that is called.

        None where the tensors do not agree on a number of rows.
        """
        sizes = {leaf.shape[0] for leaf in self.leaves() if isinstance(leaf, Tensor) and leaf.dim() > 0}
        if len(sizes) != 1 or 0 in sizes:
            return None
        name, index = ("two rows", [0, 0]) if sizes == {1} else ("one row", [0])

        def rows(value: Any) -> Any:
            return value[index] if isinstance(value, Tensor) and value.dim() > 0 else value

        arguments, keywords = tree_map(rows, (list(self.arguments), self.keywords))
        return name, Call(tuple(arguments), keywords)

    def other_values(self) -> "list[tuple[str, Call]]":
        """Return the call with other numbers in its floating-point inputs, for a forward that branches on them.

        Empty where no input is a floating-point tensor.
        """
        if not any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in self.leaves()):
            return []

        def times(value: Any, factor: float) -> Any:
            return value * factor if isinstance(value, Tensor) and value.is_floating_point() else value

        found = []
        for name, factor in (("negated", -1.0), ("enlarged", 8.0), ("zero", 0.0)):
            arguments, keywords = tree_map(lambda v, f=factor: times(v, f), (list(self.arguments), self.keywords))
            found.append((name, Call(tuple(arguments), keywords)))
        return found

    def nudged(self) -> "Call":
        """Return the call with every floating-point input changed by about its last bit."""

        def nudge(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            signs = torch.ones(value.numel(), dtype=value.dtype, device=value.device)
            signs[::2] = -1
            return value * (1 + torch.finfo(value.dtype).eps * signs.view(value.shape))

        arguments, keywords = tree_map(nudge, (list(self.arguments), self.keywords))
        return replace(self, arguments=tuple(arguments), keywords=keywords)

    def leaves(self) -> list[Any]:
        """Return all values of the call, tensors and others."""
        return tree_flatten((list(self.arguments), self.keywords))[0]


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
        "example_input: expected a tensor, a tuple of arguments or a mapping of keyword arguments, got "
        f"{type(example_input).__name__}; pass one batch as the model's forward takes it"
    )


def set_mode(model: nn.Module, mode: str) -> None:
    """Put a model in one of the modes; `sandbox` puts it back."""
    model.eval()
    if mode == EVALUATION:
        return
    for module in model.modules():
        dropout = isinstance(module, nn.modules.dropout._DropoutNd)  # noqa: SLF001 - the base of all dropouts
        if (mode == TRAINING and not dropout) or is_batch_norm(module):
            module.training = True


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module normalizes by statistics of the batch when it trains."""
    return isinstance(module, nn.modules.batchnorm._NormBase)  # noqa: SLF001 - the base of batch and instance norms


@contextmanager
def sandbox(model: nn.Module) -> Iterator[None]:
    """Run a model freely inside; afterwards modes, buffers, what it holds and random state are as before."""
    snapshot = Snapshot(model)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - a forward may draw from it
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            try:
                snapshot.restore()
            finally:
                random.setstate(python)
                np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def quiet_kernels() -> Iterator[None]:
    """Switch off fused kernels that hide their steps (recurrent oneDNN kernels, the attention fast path)."""
    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()  # noqa: SLF001
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)  # noqa: SLF001 - mkldnn.flags() sets more, and warns of it
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(onednn)  # noqa: SLF001


def random_state() -> list[Tensor]:
    """Return the state of torch's generators; another one afterwards shows that numbers were drawn."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def first_line(error: BaseException) -> str:
    """Return the type of an exception and the start of what it says: PyTorch may list pages of kernels below."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:_MOST_SAID]}"


def loss_of(model: nn.Module, call: Call, target: Any, loss: Loss) -> Tensor:
    """Return the loss of a model's output for a call, whose tensors stay as they are.

    Raises:
        SurgeryError: It is not one number.
    """
    own = call.copied()
    value = loss(model(*own.arguments, **own.keywords), target)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise SurgeryError(f"loss: expected a function that returns one number, got {type(value).__name__}")
    return value
