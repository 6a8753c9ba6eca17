"""Run the model before and after a growth and compare: the second defence against a wrong channel graph."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from graftwork.numerics import output_gap, tolerance_for
from graftwork.surgery._calls import Call, norms_in_training, other_values, sandbox, training_without_dropout

__all__ = ["Probe", "Probes"]


@dataclass(frozen=True)
class Probe:
    """One run: a mode, an input, and what came out before the growth.

    Attributes:
        mode: ``"evaluation"``, ``"training norms"`` or ``"training"``.
        batch: What the input is, for messages.
        call: The call.
        output: Tensors that came out before.
        noise: Gap that rounding alone makes: the outputs' response to an input that differs in its last bits.
    """

    mode: str
    batch: str
    call: Call
    output: Any
    noise: float


@dataclass
class Probes:
    """The runs that a growth must not change.

    Attributes:
        runs: The probes.
        gaps: Probe name → gap, after `compare`.
    """

    runs: list[Probe]
    gaps: dict[str, float] = field(default_factory=dict)

    @classmethod
    def before(cls, model: nn.Module, call: Call, *, branches: bool = False) -> "Probes":
        """Run the example, and two more batch sizes where the model allows, in both modes.

        Dropout is off, norms run in evaluation and in training mode. Buffers, modes and random state are restored.

        Args:
            model: The model.
            call: The example; its inputs are used as they are, in three batch sizes.
            branches: Whether the forward branches on values: then inputs of other values run too.
        """
        runs: list[Probe] = []
        for batch, variant in [*_variants(call), *(other_values(call) if branches else [])]:
            modes = ["evaluation", "training norms"]
            if batch == "example" and _repeats(model, variant):
                modes.append("training")
            for mode in modes:
                with sandbox(model), _in_mode(model, mode):
                    try:
                        output = variant.run(model)
                        nudged = Call(*_nudged(variant)).run(model)
                    except Exception:
                        if mode == "evaluation" and batch == "example":
                            raise
                        continue  # this batch size or mode is not for this model
                    runs.append(Probe(mode, batch, variant, _plain(output), output_gap(_plain(output), _plain(nudged))))
        return cls(runs)

    def compare(self, model: nn.Module) -> float:
        """Run all probes again and return the largest gap, in units of what rounding allows.

        Raises:
            Exception: Whatever the model's forward raises.
        """
        worst = 0.0
        # Largest batch first: the smaller ones then run in the memory that it has left, and the peak stays low.
        for probe in sorted(self.runs, key=lambda probe: -probe.call.size):
            with sandbox(model), _in_mode(model, probe.mode):
                gap = output_gap(probe.output, _plain(probe.call.run(model)))
            self.gaps[f"{probe.mode}, {probe.batch}"] = gap
            worst = max(worst, gap / self.tolerance(probe))
        return worst

    def tolerance(self, probe: Probe) -> float:
        """Return the largest gap that counts as rounding; more where the model amplifies rounding."""
        base = tolerance_for(_dtype(probe.output))
        noise = probe.noise if math.isfinite(probe.noise) else 0.0
        return max(base, min(20.0 * noise, 500 * base))

    @property
    def largest_gap(self) -> float:
        """The largest relative gap of the last comparison."""
        return max(self.gaps.values(), default=0.0)


@contextmanager
def _in_mode(model: nn.Module, mode: str) -> Iterator[None]:
    if mode == "evaluation":
        model.eval()
        yield
        return
    with norms_in_training(model):
        if mode == "training":
            training_without_dropout(model)
        yield


def _repeats(model: nn.Module, call: Call) -> bool:
    """Whether training mode without dropout modules is deterministic and runs on this batch."""
    outputs = []
    for draws in (0, 1):
        with sandbox(model), _in_mode(model, "training"):
            torch.rand(draws)  # the second run sees another random state
            try:
                outputs.append(_plain(call.run(model)))
            except Exception:
                return False
    return output_gap(*outputs) == 0.0


def _variants(call: Call) -> list[tuple[str, Call]]:
    """The example, one row of it, and one row more."""
    leaves = [leaf for leaf in tree_flatten((list(call.arguments), call.keywords))[0] if isinstance(leaf, Tensor)]
    sizes = {leaf.shape[0] for leaf in leaves if leaf.dim() > 0}
    variants = [("example", call)]
    if len(sizes) != 1:
        return variants
    (size,) = sizes

    def rows(value: Any, index: list[int]) -> Any:
        return value[index] if isinstance(value, Tensor) and value.dim() > 0 else value

    for name, index in (("one row", [0]), ("one row more", [*range(size), 0])):
        if len(index) == size or size == 0:
            continue
        arguments, keywords = tree_map(lambda v, index=index: rows(v, index), (list(call.arguments), call.keywords))
        variants.append((name, Call(tuple(arguments), keywords)))
    return variants


def _nudged(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call with every floating-point input changed by about its last bit."""

    def nudge(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        step = torch.finfo(value.dtype).eps
        signs = torch.ones(value.numel(), dtype=value.dtype, device=value.device)
        signs[::2] = -1
        return value * (1 + step * signs.view(value.shape))

    arguments, keywords = tree_map(nudge, (list(call.arguments), call.keywords))
    return tuple(arguments), keywords


def _plain(output: Any) -> list[Tensor]:
    from graftwork.surgery._trace import output_tensors

    return [tensor.detach().clone() for tensor in output_tensors(output)]


def _dtype(output: list[Tensor]) -> torch.dtype:
    kinds = [t.dtype for t in output if t.is_floating_point()]
    return max(kinds, key=tolerance_for) if kinds else torch.float32
