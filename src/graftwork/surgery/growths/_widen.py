"""Widen the channels that one module makes."""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace
from itertools import islice
from typing import Any

from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._attributes import AttributeChange, is_size, logged_size
from graftwork.surgery._check import Check
from graftwork.surgery._methods import method_named
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.growths._choice import choices
from graftwork.surgery.growths._growth import ModelGrowth, Subject, register_growth
from graftwork.surgery.growths._resize import Resize, resize_tensors
from graftwork.surgery.layers import replace_configs


@dataclass(frozen=True, kw_only=True, repr=False)
class Widening(ModelGrowth):
    """What all growths in width share.

    Attributes:
        method: How new units are filled: ``"r2r"`` (new twins cancel), ``"net2net"`` (copies share their consumers'
            weights), ``"netmorph"`` (new channels are not heard yet) or ``"random-padding"`` (the control: changes the
            function).
        approximate: Whether to grow also channels that a LayerNorm, an RMSNorm or a written-out mean or variance runs
            over. New channels shift their statistics, so the function changes: the plan names the norms, the receipt
            states the measured gap. ``net2net`` with ``factor=2`` copies every channel once, which keeps mean and
            variance. What is exact without it stays exact and checked.
        scale: Standard deviation of new weights. None matches the old ones.
        axis: Which of the volumes that a width is made of grows, the outermost first. The queries of grouped attention
            are heads of keys (0) × heads of queries for each (1) × their width (2). None takes the first that fits.
    """

    method: str = "r2r"
    approximate: bool = False
    scale: float | None = None
    axis: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        method_named(self.method)
        if self.scale is not None and not (_is_number(self.scale) and self.scale >= 0):
            raise self.wrong("scale", "a number of at least 0, or None")
        if self.axis is not None and not (type(self.axis) is int and self.axis >= 0):
            raise self.wrong("axis", "a whole number of at least 0, or None")
        if self.approximate and self.check is False:
            raise SurgeryError(
                f"{type(self).__name__}: approximate=True: expected check=True, got check=False; the gap that a growth "
                "makes is stated as it was measured"
            )

    def allowed(self, subject: Subject) -> Subject:
        """Return the subject with a graph that lets grow what this growth may change."""
        return replace(subject, graph=replace(subject.graph, approximate=self.approximate))

    def rebuild(self, model: nn.Module, changes: Mapping[str, Any]) -> None:
        """See `ModelGrowth.rebuild`."""
        resize_tensors(model, changes["tensors"])
        modules, configs = dict(model.named_modules()), []
        for path, name, value in changes["attributes"]:
            if path.rpartition(".")[2] == "config" and path not in modules:
                if not all(map(is_size, value if isinstance(value, list) else [value])):
                    raise SurgeryError(f"growth log: {path}.{name}: expected whole numbers, got {value!r}")
                configs.append(AttributeChange(path, name, None, value))
                continue
            owner = model.get_submodule(path)
            setattr(owner, name, logged_size(owner, path, name, value))
        with Transaction() as transaction:
            replace_configs(transaction, model, configs)


@register_growth("widen")
@dataclass(frozen=True, repr=False)
class Widen(Widening):
    """Widen the channels that a module makes; exactly one of ``extra``, ``width`` and ``factor`` is given.

    Attributes:
        site: Path of the module (or parameter) whose output channels grow: ``"layer3.0.conv1"``.
        extra: Number of new channels in total (an even number for ``r2r``; whole groups or heads where the
            channels are grouped).
        width: Number of channels afterwards.
        factor: Ratio of the new width to the old one (> 1), rounded up to what the site allows.

    Example:
        >>> Widen("layer3.0.conv1", extra=8)
        Widen('layer3.0.conv1', extra=8)
    """

    site: str
    _: KW_ONLY
    extra: int | None = None
    width: int | None = None
    factor: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.site, str):
            raise self.wrong("site", "the path of a module")
        given = [name for name in ("extra", "width", "factor") if getattr(self, name) is not None]
        if len(given) != 1:
            raise SurgeryError(
                f"Widen: expected exactly one of extra, width and factor, got {' and '.join(given) or 'none of them'}"
            )
        for name in ("extra", "width"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and value > 0):
                raise self.wrong(name, "a number of channels above 0")
        check_factor(self, self.factor)

    def edit(self, subject: Subject) -> Resize:
        """See `ModelGrowth.edit`."""
        return next(self._edits(subject))

    def alternatives(self, subject: Subject, check: Check, problem: SurgeryError) -> Iterator[Resize]:
        """Yield the growths of the other volumes that the width is made of, such as the width of heads."""
        with suppress(SurgeryError):
            yield from islice(self._edits(subject), 1, None)

    def _edits(self, subject: Subject) -> Iterator[Resize]:
        subject, method = self.allowed(subject), method_named(self.method)
        size = {"extra": self.extra, "width": self.width, "factor": self.factor, "axis": self.axis}
        for growth in choices(subject.graph, self.site, method, **size):  # type: ignore[arg-type]
            yield Resize(subject, {self.site: growth}, method, scale=self.scale)


def check_factor(growth: ModelGrowth, factor: object, name: str = "factor") -> None:
    """Refuse a factor that is no number above 1.

    Raises:
        SurgeryError: It is none.
    """
    if factor is not None and not (_is_number(factor) and math.isfinite(factor) and factor > 1):  # type: ignore[arg-type, operator]
        raise growth.wrong(name, "a number above 1")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
