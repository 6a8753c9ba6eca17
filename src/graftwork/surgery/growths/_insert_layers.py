"""Insert whole layers into a stack."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import nn

from graftwork.errors import SurgeryError, did_you_mean
from graftwork.surgery.growths._growth import ModelGrowth, Subject, register_growth
from graftwork.surgery.growths._new_layers import NewLayers, rebuild_layers
from graftwork.surgery.layers import INITS, TRAINS, find_stack


@register_growth("insert-layers")
@dataclass(frozen=True, repr=False)
class InsertLayers(ModelGrowth):
    """Insert whole layers into a list of layers: real entries, as in a model that was built at that depth.

    Each new layer is a copy of the entry that it follows (or of the nearest one that can start as the identity, or that
    the model's config would build there). Positions behind it shift, and with them the names of tensors; numbers that
    layers keep of their own place, and the config's count, follow.

    Attributes:
        stack: Path of the ``ModuleList`` or ``Sequential``: ``"model.layers"``, ``"layer3"``.
        after: Positions after which a new layer goes; a position may stand several times, negative ones count from the
            end.
        every: Or one new layer after every so many.
        count: Or so many new layers, spread evenly.
        init: ``"zero-out"`` (copies whose residual branches add nothing: the last projection of each is zero; where a
            norm follows it in the branch, that norm's gain and bias), ``"r2r"`` (copies whose branches end in twins
            that cancel) or ``"copy"`` (plain copies; not exact, needs ``approximate=True``).
        train: ``"all"``, or ``"new"``: afterwards only the new layers train.
        approximate: Whether layers that can't start as the identity (post-norm, plain copies) are inserted, too; the
            receipt states how much the outputs have changed.

    Example:
        >>> InsertLayers("model.layers", every=4)
        InsertLayers('model.layers', every=4)
    """

    stack: str
    _: KW_ONLY
    after: tuple[int, ...] | None = None
    every: int | None = None
    count: int | None = None
    init: str = "zero-out"
    train: str = "all"
    approximate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.after, (int, list, range)) and not isinstance(self.after, bool):
            positions = (self.after,) if isinstance(self.after, int) else tuple(self.after)
            object.__setattr__(self, "after", positions)
        given = [name for name in ("after", "every", "count") if getattr(self, name) is not None]
        if len(given) != 1:
            raise SurgeryError(f"InsertLayers: expected one of after, every and count, got {given or 'none of them'}")
        if self.after is not None and not (self.after and all(type(position) is int for position in self.after)):
            raise self.wrong("after", "positions of entries, such as [3, 7]")
        for name in ("every", "count"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and value > 0):
                raise self.wrong(name, "a number above 0")
        for name, known in (("init", INITS), ("train", TRAINS)):
            value = getattr(self, name)
            if value not in known:
                raise SurgeryError(f"{self.wrong(name, f'one of {list(known)}')}{did_you_mean(value, known)}")
        if self.init == "copy" and not self.approximate:
            raise SurgeryError(
                "InsertLayers: init: expected approximate=True beside 'copy', as plain copies change the function; "
                "take 'zero-out' for an exact growth"
            )

    def edit(self, subject: Subject) -> NewLayers:
        """See `ModelGrowth.edit`."""
        stack = find_stack(subject.model, self.stack, self.after, every=self.every, count=self.count)
        return NewLayers(
            subject, stack, init=self.init, train=self.train, approximate=self.approximate, thorough=self.check
        )

    def rebuild(self, model: nn.Module, changes: Mapping[str, Any]) -> None:
        """See `ModelGrowth.rebuild`."""
        rebuild_layers(model, changes)
