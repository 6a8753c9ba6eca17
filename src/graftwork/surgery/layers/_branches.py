"""What an entry of a stack does to its input: adds branches to it, or something that can't start as the identity."""

from dataclasses import dataclass, replace

from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._adapters import adapter_calls
from graftwork.surgery._calls import Call, quiet_kernels, sandbox
from graftwork.surgery.layers._record import Entry, recording
from graftwork.surgery.layers._silence import CanNotBeZeroError, Silence, silence


@dataclass(frozen=True)
class Branches:
    """What the run of one entry has shown.

    Attributes:
        silence: What makes the entry the identity, None where nothing does.
        count: Number of its residual branches.
        problem: Why it can't be the identity; empty where it can.
        norms: Norms that stand after the residual sum (post-norm), by their first parameter.
        shape: Shape of the stream that comes in, None where there is none.
        out: Shape of what goes out.
    """

    silence: Silence | None
    count: int = 0
    problem: str = ""
    norms: tuple[str, ...] = ()
    shape: tuple[int, ...] | None = None
    out: tuple[int, ...] | None = None

    def __and__(self, other: "Branches | None") -> "Branches":
        """What holds in two ways to run the entry, with one adapter and another."""
        if other is None:
            return self
        worse = self if other.exact else other
        if self.silence is None or other.silence is None:
            return worse
        return replace(worse, silence=other.silence | self.silence)

    @property
    def exact(self) -> bool:
        """Whether a copy can start as the identity."""
        return self.silence is not None and not self.norms


def branches_of(model: nn.Module, stack: nn.Module, call: Call) -> list[Branches | None]:
    """Run a model once and return what every entry of a stack does; None for one that did not run.

    Args:
        model: The model; left as it was.
        stack: A ``ModuleList`` or ``Sequential`` of it.
        call: The example.
    """
    entries = list(stack.children())
    found: list[Branches | None] = [None] * len(entries)

    def analyse(number: int, entry: Entry) -> None:
        found[number] = _branches(entry) & found[number]

    try:
        for way in (call, *adapter_calls(model, call)):
            with sandbox(model), quiet_kernels(), recording(model, entries, analyse):
                model.eval()
                way.run(model)
    except SurgeryError:
        raise
    except Exception as error:
        raise SurgeryError(
            f"example_input: expected a batch as the model's forward takes it, got {type(error).__name__} in "
            f"evaluation mode ({error}); pass another"
        ) from error
    return found


def _branches(entry: Entry) -> Branches:
    stream, output = entry.stream, entry.output
    if stream is None or output is None:
        return Branches(None, problem="it takes or returns no floating-point tensor")
    shape, out = tuple(stream.value.shape), tuple(output.value.shape)
    if output.plain is None or not output.branches:
        if shape == out:
            why = "its output is no sum of its input and residual branches"
        else:
            why = f"its output has another shape than its input ({list(shape)} → {list(out)}), as where it down-samples"
        return Branches(None, problem=why, shape=shape, out=out)
    found = Silence()
    try:
        for branch in output.branches:
            found |= silence(branch)
    except CanNotBeZeroError as error:
        return Branches(None, problem=f"a residual branch can't be made zero: {error}", shape=shape, out=out)
    problem = ""
    if output.through:
        problem = f"the norm of {output.through[0]!r} stands after the residual sum (post-norm)"
    elif found.normed:
        problem = "a residual branch ends in a norm without a gain, and zeros in front of it magnify gradients"
    usable = None if found.normed else found
    return Branches(usable, len(output.branches), problem, output.through, shape, out)
