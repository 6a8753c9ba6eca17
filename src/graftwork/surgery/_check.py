"""Compare what a model computes before and after a growth: the second defence against a wrong channel graph."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from graftwork.numerics import output_gap, tolerance_for
from graftwork.surgery._calls import (
    EVALUATION,
    NORMS,
    TRAINING,
    Call,
    is_batch_norm,
    quiet_kernels,
    sandbox,
    set_mode,
)
from graftwork.surgery._trace import output_tensors
from graftwork.surgery._transaction import Transaction

Thoroughness: TypeAlias = bool | Literal["fast"]
"""How a growth is checked: True, in every mode and with another batch size; ``"fast"``, in evaluation mode; False."""

_MOST_NOISE = 500.0  # times the base tolerance


@dataclass(eq=False)
class Probe:
    """One run: a mode, an input, and what came out before the growth.

    Attributes:
        mode: ``"evaluation"``, ``"training"`` or ``"training norms"``.
        batch: What the input is, for messages.
        call: The call.
        output: Tensors that came out before.
        random: Whether the run drew random numbers.
        noise: Gap that rounding alone makes: the outputs' response to an input that differs in its last bits. Measured
            only where the outputs differ by more than rounding usually makes, as most models don't amplify it.
        settled: Whether ``output`` and ``noise`` were measured again.
    """

    mode: str
    batch: str
    call: Call
    output: list[Tensor]
    random: bool = False
    noise: float = 0.0
    settled: bool = False

    @property
    def name(self) -> str:
        """Name of the run in a receipt."""
        return f"{self.mode}, {self.batch}"

    @property
    def base(self) -> float:
        """Largest gap that counts as rounding in a model that does not amplify it."""
        kinds = [t.dtype for t in self.output if t.is_floating_point()]
        return tolerance_for(max(kinds, key=tolerance_for) if kinds else torch.float32)

    @property
    def tolerance(self) -> float:
        """Largest gap that counts as rounding; more where the model amplifies it."""
        noise = self.noise if math.isfinite(self.noise) else 0.0
        return max(self.base, min(20.0 * noise, _MOST_NOISE * self.base))


class Interface:
    """How a grown model is called, and what of its outputs the old one had: here all as before."""

    def call(self, call: Call) -> Call:
        """Return the call of the grown model that stands for one of the old."""
        return call

    def old_call(self, call: Call) -> Call:
        """Return the call of the old model that stands for one of the grown."""
        return call

    def output(self, before: list[Tensor], after: list[Tensor]) -> list[Tensor]:
        """Return the part of the grown model's outputs that is compared with the old ones."""
        return after


class OldChannels(Interface):
    """Outputs may have become wider, as where a model also returns its stream: what was there is compared."""

    def output(self, before: list[Tensor], after: list[Tensor]) -> list[Tensor]:
        """See `Interface.output`."""
        if len(before) != len(after):
            return after
        return [
            new[tuple(slice(0, n) for n in old.shape)] if new.dim() == old.dim() else new
            for old, new in zip(before, after, strict=True)
        ]


class Check:
    """The runs that a growth must not change.

    What the trace of the model has computed costs nothing. So a growth needs six forward passes: two traces, another
    batch size, and all three again with the grown model. With ``"fast"`` it needs two.

    Args:
        model: The model, before the growth.
        traced: The runs of the trace.
        thorough: How much to compare.

    Attributes:
        gaps: Name of a run → relative change of the outputs, after `compare`.
        interface: How the grown model is called, and which part of its outputs is compared.
        thorough: How much to compare.
    """

    def __init__(self, model: nn.Module, traced: Sequence[Probe], *, thorough: Thoroughness) -> None:
        self.gaps: dict[str, float] = {}
        self.thorough = thorough
        self.interface = Interface()
        self._model = model
        self._probes: list[Probe] = []
        if thorough is False:
            return
        self._probes = [probe for probe in traced if probe.mode == EVALUATION or not probe.random]
        if thorough == "fast":
            return
        example = self._probes[0].call
        if (other := example.other_size()) is not None:
            self._add(EVALUATION, *other)
        # Dropout that is no module makes training random: then the norms alone are put in training mode.
        random = not any(probe.mode == TRAINING for probe in self._probes)
        if random and any(is_batch_norm(module) for module in model.modules()):
            self._add(NORMS, "example", example)

    @property
    def runs(self) -> int:
        """Number of runs that are compared."""
        return len(self._probes)

    def _add(self, mode: str, batch: str, call: Call) -> None:
        try:
            self._probes.append(Probe(mode, batch, call, self._run(mode, call)))
        except Exception:  # this batch size or mode is not for this model, whatever its forward raises
            return

    def compare(self, transaction: Transaction, *, whole: bool = False) -> float:
        """Run the grown model and return the largest gap, in units of what rounding allows.

        Args:
            transaction: The growth, which is undone for a moment where the model as it was has to run again: the model
                may have been trained since the trace, or may amplify rounding.
            whole: Whether to go on after a run that differs by more than that, so that the gaps of all runs are known.

        Raises:
            Exception: Whatever the model's forward raises.
        """
        worst = 0.0
        self.gaps = {}
        # Largest batch first: the smaller ones then run in the memory that it has left, and the peak stays low.
        for probe in sorted(self._probes, key=lambda probe: -probe.call.size):
            after = self.interface.output(probe.output, self._run(probe.mode, self.interface.call(probe.call)))
            gap = output_gap(probe.output, after)
            if gap > probe.base and not probe.settled:
                with transaction.suspended():
                    self._settle(probe)
                if probe not in self._probes:
                    continue
                gap = output_gap(probe.output, after)
            self.gaps[probe.name] = gap
            worst = max(worst, gap / probe.tolerance)
            if worst > 1.0 and not whole:
                break
        return worst

    def _settle(self, probe: Probe) -> None:
        """Measure a run of the model as it was again, and how it amplifies rounding."""
        output = self._run(probe.mode, probe.call)
        if probe.mode == TRAINING and output_gap(probe.output, output) > 0.0:
            again = self._run(probe.mode, probe.call)
            if output_gap(output, again) > 0.0:  # random by other means than torch's generators
                self._probes.remove(probe)
                return
        probe.output = output
        probe.noise = output_gap(output, self._run(probe.mode, probe.call.nudged()))
        probe.settled = True

    def _run(self, mode: str, call: Call) -> list[Tensor]:
        with sandbox(self._model), quiet_kernels():
            set_mode(self._model, mode)
            return plain(call.run(self._model))

    @property
    def largest_gap(self) -> float:
        """The largest relative gap of the last comparison."""
        return max(self.gaps.values(), default=0.0)


def plain(output: Any) -> list[Tensor]:
    """Return the tensors of an output, copied."""
    return [tensor.detach().clone() for tensor in output_tensors(output)]
