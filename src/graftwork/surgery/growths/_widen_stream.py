"""Widen the residual stream."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._space import Var
from graftwork.surgery.growths._growth import ModelGrowth, Subject, register_growth
from graftwork.surgery.growths._widen import check_factor
from graftwork.surgery.growths._wider_stream import WiderStream, rebuild_stream
from graftwork.surgery.streams import Tape, Wish, streams


def larger(found: Sequence[Var], factor: float) -> dict[Var, int] | None:
    """Return new units of each stream for a factor; None where they would not grow alike."""
    added = {var: max(round(var.size * factor) - var.size, 1) for var in found}
    return added if len({(var.size + more) / var.size for var, more in added.items()}) == 1 else None


@register_growth("widen-stream")
@dataclass(frozen=True, repr=False)
class WidenStream(ModelGrowth):
    """Make a model itself wider: the residual stream, to which every branch is added and which norms run over.

    Behind RMSNorm new channels stay zero; behind LayerNorm they carry the mean of the old ones. Either way the norm
    makes zeros of them, so what reads the stream may have any weights for them, and learns at once. Gains and the eps
    of norms are scaled so that their outputs stay; where an eps can't follow (it is written in the code, or one number
    of a config serves other norms too), everything that writes to the stream is scaled instead. Where neither is exact
    (post-norm, say), an integer factor makes copies of all channels, which readers hear by different shares.

    Heads keep their width; where a config has no number for it, there are more of them. Exactly one of ``factor`` and
    ``to`` is given.

    Attributes:
        factor: Ratio of the new to the old number of channels (> 1).
        to: Number of channels afterwards, for a model with streams of one width.

    Example:
        >>> WidenStream(1.5)
        WidenStream(1.5)
    """

    factor: float | None = None
    _: KW_ONLY
    to: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.factor is None) == (self.to is None):
            given = "neither" if self.to is None else "both"
            raise SurgeryError(f"WidenStream: expected exactly one of factor and to, got {given}")
        check_factor(self, self.factor)
        if self.to is not None and not (type(self.to) is int and self.to > 0):
            raise self.wrong("to", "a number of channels above 0")

    def edit(self, subject: Subject) -> WiderStream:
        """See `ModelGrowth.edit`."""
        tape = Tape.of(subject.graph, subject.graph.probes[0].call)
        return WiderStream(subject, tape, Wish(self._added(streams(tape))), thorough=self.check)

    def _added(self, found: list[Var]) -> dict[Var, int]:
        """Volumes of the streams → new units."""
        widths = sorted({var.size for var in found})
        if self.to is not None:
            if len(widths) > 1:
                raise self.wrong("to", f"a factor, as the model has streams of {widths} channels")
            if self.to <= widths[0]:
                raise self.wrong("to", f"more channels than the present {widths[0]}")
            return {var: self.to - var.size for var in found}
        added = None if self.factor is None else larger(found, self.factor)
        if added is None:
            raise self.wrong("factor", f"one by which streams of {widths} channels grow alike")
        return added

    def rebuild(self, model: nn.Module, changes: Mapping[str, Any]) -> None:
        """See `ModelGrowth.rebuild`."""
        rebuild_stream(model, changes)
