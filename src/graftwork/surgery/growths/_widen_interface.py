"""More outputs (classes, tokens) or more inputs (channels, features) for a model."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import nn

from graftwork.errors import SurgeryError, did_you_mean
from graftwork.surgery.growths._growth import ModelGrowth, Subject, register_growth
from graftwork.surgery.growths._new_units import NewUnits, rebuild_units
from graftwork.surgery.interface import INITS, input_places, output_places


@register_growth("widen-outputs")
@dataclass(frozen=True, repr=False)
class WidenOutputs(ModelGrowth):
    """Add outputs to a model: classes to a classifier, tokens to a vocabulary.

    Old rows keep their bits and the old outputs their values; new ones stand behind them. A tied embedding grows with
    its head. Where a Hugging Face config says how many there are, it follows (``num_labels`` with names for the new
    classes, ``vocab_size``), and so does every other tensor that a model of that config has longer: an embedding that
    is not tied, a second head. Elsewhere, name all that grow together: ``WidenOutputs(("embed", "head"), 3)``.

    Attributes:
        site: Path of the head (a linear map, a convolution, an embedding), or several with as many rows. None for the
            only head.
        extra: Number of new outputs.
        init: What new rows and their biases hold: ``"zero"`` (new logits are 0) or ``"mean"`` (of the old rows).

    Example:
        >>> WidenOutputs("fc", 5)
        WidenOutputs('fc', 5)
    """

    site: str | tuple[str, ...] | None
    extra: int
    _: KW_ONLY
    init: str = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.site, list):
            object.__setattr__(self, "site", tuple(self.site))
        paths = self.site if isinstance(self.site, tuple) else (self.site,)
        if not paths or not all(isinstance(path, str) or self.site is None for path in paths):
            raise self.wrong("site", "the path of a head, several, or None for the only one")
        _check_extra(self, self.extra)
        if self.init not in INITS:
            raise SurgeryError(f"{self.wrong('init', f'one of {list(INITS)}')}{did_you_mean(self.init, INITS)}")

    def edit(self, subject: Subject) -> NewUnits:
        """See `ModelGrowth.edit`."""
        sites = self.site if isinstance(self.site, tuple) else () if self.site is None else (self.site,)
        places = output_places(subject.graph, sites, self.init)
        return NewUnits(subject, places, self.extra, init=self.init, thorough=self.check)

    def rebuild(self, model: nn.Module, changes: Mapping[str, Any]) -> None:
        """See `ModelGrowth.rebuild`."""
        rebuild_units(model, changes)


@register_growth("widen-inputs")
@dataclass(frozen=True, repr=False)
class WidenInputs(ModelGrowth):
    """Let a model take more channels or features; the weights of new ones are zero.

    On inputs with anything in the new channels, the outputs are what they were.

    Attributes:
        site: Path of the module that reads the input (a convolution, a linear map). None for the only one.
        extra: Number of new channels.

    Example:
        >>> WidenInputs("conv1", 1)
        WidenInputs('conv1', 1)
    """

    site: str | None
    extra: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.site is not None and not isinstance(self.site, str):
            raise self.wrong("site", "the path of a module, or None for the only one that reads the input")
        _check_extra(self, self.extra)

    def edit(self, subject: Subject) -> NewUnits:
        """See `ModelGrowth.edit`."""
        return NewUnits(subject, input_places(subject.graph, self.site), self.extra, thorough=self.check)

    def rebuild(self, model: nn.Module, changes: Mapping[str, Any]) -> None:
        """See `ModelGrowth.rebuild`."""
        rebuild_units(model, changes)


def _check_extra(growth: ModelGrowth, extra: object) -> None:
    if not (type(extra) is int and extra > 0):
        raise growth.wrong("extra", "a number above 0")
