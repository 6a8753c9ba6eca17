"""How large a checkpoint shall become, and which growths make it so."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._sites import growth_sites
from graftwork.surgery._stand_in import stand_in
from graftwork.surgery.growths import (
    AddSharedExpert,
    InsertLayers,
    ModelGrowth,
    RepeatExperts,
    RepeatKeyValueHeads,
    WidenAll,
    WidenOutputs,
    WidenStream,
)

Step = Callable[[nn.Module, dict[str, Any]], ModelGrowth]
"""A model without weights and an example → the growth that is next."""
_LAYERS = re.compile(r"\+(\d+)(%?)|(\d+)")
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


@dataclass(frozen=True)
class Sizes:
    """What shall grow, as a person says it; what is None stays as it is.

    Attributes:
        layers: New layers (``"+4"``, ``"+25%"``) or their number afterwards (``"40"``); spread evenly.
        width: Ratio of the new to the old width of the residual stream.
        mlp: Ratio of the new to the old inner width of every layer.
        vocab: Number of tokens afterwards.
        kv_heads: How many heads of keys and values stand for one.
        experts: How many routed experts stand for one, and how many are chosen for one.
        shared_expert: The config's number of shared experts, or the width of the shared one, afterwards.
        stack: Path of the list of layers. None for the only one.
        approximate: Whether a growth that is not exact is made; its gap is stated.
    """

    layers: str | None = None
    width: float | None = None
    mlp: float | None = None
    vocab: int | None = None
    kv_heads: int | None = None
    experts: int | None = None
    shared_expert: int | None = None
    stack: str | None = None
    approximate: bool = False

    def __post_init__(self) -> None:
        names = [field.name for field in fields(self) if field.name not in ("stack", "approximate")]
        if all(getattr(self, name) is None for name in names):
            raise SurgeryError(f"expected something that grows, got nothing; give one of {', '.join(names)}")
        if self.layers is not None and not _LAYERS.fullmatch(self.layers):
            raise SurgeryError(f'layers: expected "+4", "+25%" or a number of layers, got {self.layers!r}')
        if self.stack is not None and self.layers is None:
            raise SurgeryError(f"stack: expected layers beside it, got {self.stack!r} alone")

    def steps(self) -> Iterator[Step]:
        """Yield what makes each growth in its turn: the widths first, so that new layers are copies of wide ones."""
        if self.width is not None:
            yield partial(_as_it_is, WidenStream(self.width, check="fast"))
        if self.mlp is not None:
            yield self._wider_mlp
        yield from (partial(_as_it_is, growth) for growth in self._counted())
        if self.layers is not None:
            yield self._more_layers
        if self.vocab is not None:
            yield self._more_tokens

    def _counted(self) -> Iterator[ModelGrowth]:
        if self.kv_heads is not None:
            yield RepeatKeyValueHeads(self.kv_heads, check="fast")
        if self.experts is not None:
            yield RepeatExperts(self.experts, check="fast")
        if self.shared_expert is not None:
            yield AddSharedExpert(self.shared_expert, check="fast")

    def _wider_mlp(self, model: nn.Module, example: dict[str, Any]) -> ModelGrowth:
        """Widen all sites in layers that are not attention's."""
        assert self.mlp is not None
        inside = tuple(f"{path}." for path in stacks(model))
        sites = growth_sites(stand_in(model), example)
        names = [
            site.name
            for site in sites
            if site.name.startswith(inside)
            and (site.widen or (self.approximate and site.approximate))
            and not _ATTENTION.search(site.name)
        ]
        if not names:
            raise SurgeryError("mlp: expected layers whose inner width can grow, got none; leave it out")
        patterns = dict.fromkeys(re.sub(r"\.\d+(?=\.)", ".*", name) for name in names)
        return WidenAll(self.mlp, only=tuple(patterns), approximate=self.approximate, check="fast")

    def _more_layers(self, model: nn.Module, _example: dict[str, Any]) -> ModelGrowth:
        found = stacks(model)
        if self.stack is None and len(found) != 1:
            raise SurgeryError(f"layers: expected a model with one list of layers, got {found}; choose by stack")
        path = self.stack or found[0]
        try:
            length = len(list(model.get_submodule(path).children()))
        except AttributeError:
            raise SurgeryError(f"stack: expected one of {found}, got {path!r}") from None
        return InsertLayers(path, count=self._new_layers(length), approximate=self.approximate, check="fast")

    def _new_layers(self, length: int) -> int:
        match = _LAYERS.fullmatch(self.layers or "")
        assert match is not None
        new, percent, total = match.groups()
        count = int(total) - length if total else round(length * int(new) / 100) if percent else int(new)
        if count < 1:
            raise SurgeryError(f"layers: expected more than the present {length} layers, got {self.layers!r}")
        return count

    def _more_tokens(self, model: nn.Module, _example: dict[str, Any]) -> ModelGrowth:
        present = getattr(getattr(model, "config", None), "vocab_size", None)
        if not isinstance(present, int):
            raise SurgeryError(f"vocab: expected a model with a vocabulary, got {type(model).__name__}; leave it out")
        assert self.vocab is not None
        if self.vocab <= present:
            raise SurgeryError(f"vocab: expected more than the present {present:,} tokens, got {self.vocab:,}")
        return WidenOutputs(None, self.vocab - present, check="fast")


def _as_it_is(growth: ModelGrowth, _model: nn.Module, _example: dict[str, Any]) -> ModelGrowth:
    return growth


def stacks(model: nn.Module) -> list[str]:
    """Return paths of the outermost lists of layers."""
    found: list[str] = []
    for path, module in model.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and not path.startswith(tuple(f"{p}." for p in found)):
            entries = list(module.children())
            if entries and all(any(True for _ in entry.children()) for entry in entries):
                found.append(path)
    return found
