"""Graft residual blocks onto the outputs of modules."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import nn

from graftwork.errors import SurgeryError, did_you_mean
from graftwork.surgery._attributes import check_claim
from graftwork.surgery._graft import graft
from graftwork.surgery._specs import NORMS, BlockSpec, block_spec
from graftwork.surgery._twin_copy import bare_copy
from graftwork.surgery.growths._add_blocks import AddBlocks, NewBlock, copied_block, new_block
from graftwork.surgery.growths._growth import Edit, ModelGrowth, Subject, register_growth
from graftwork.surgery.growths._new_layers import NewLayers, rebuild_layers
from graftwork.surgery.layers import find_stack

_OF_R2R = ("kernel_size", "hidden", "norm", "activation", "scale")
"""Options of an R2R block, which a copy of another block has not."""


@register_growth("deepen")
@dataclass(frozen=True, repr=False)
class Deepen(ModelGrowth):
    """Pass the outputs of modules through new residual R2R blocks.

    A block computes ``y + β σ(norm(W y)) − β σ(norm(W y))``: a convolution where the channels are dimension 1, a linear
    map where they are last. It becomes a child ``graft0`` (``graft1``, …) of the module, so no existing name in
    ``state_dict()`` changes.

    Attributes:
        after: Path of the module, or several; the output must be one floating-point tensor (or a tuple that starts
            with one).
        kernel_size: Odd size of the convolution.
        hidden: Hidden channels of both halves together, even. None takes the number of channels.
        norm: ``"batch"``, ``"instance"``, ``"group"``, ``"layer"``, ``"rms"`` or ``"none"``. None takes what the
            neighborhood of the module uses.
        activation: Class name in ``torch.nn``. None takes what the neighborhood uses.
        like: Path of a residual block of the model (a transformer block, a ResNet block). The new block is then a copy
            of it that starts as the identity, instead of an R2R block. Where it and the modules in ``after`` are
            entries of one list of layers, the copy becomes an entry, too, as by `InsertLayers`; elsewhere it gets
            fresh weights of the same scale and the arguments of the module that it follows. The options of the R2R
            block don't apply. None makes an R2R block.
        scale: Standard deviation of W. None matches the old weights.

    Example:
        >>> Deepen("layer1.0", kernel_size=5)
        Deepen('layer1.0', kernel_size=5)
    """

    after: str | tuple[str, ...]
    _: KW_ONLY
    kernel_size: int = 3
    hidden: int | None = None
    norm: str | None = None
    activation: str | None = None
    like: str | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.after, list):
            object.__setattr__(self, "after", tuple(self.after))
        places = self.places
        if not places or not all(isinstance(place, str) for place in places) or len(set(places)) != len(places):
            raise self.wrong("after", "the path of a module, or several different ones")
        for name in ("kernel_size", "hidden"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and value > 0):
                raise self.wrong(name, "a number above 0")
        if self.kernel_size % 2 == 0:
            raise self.wrong("kernel_size", "an odd number")
        if self.hidden is not None and self.hidden % 2:
            raise self.wrong("hidden", "an even number of channels (two halves)")
        if self.norm is not None and self.norm not in NORMS:
            raise SurgeryError(f"{self.wrong('norm', f'one of {list(NORMS)}')}{did_you_mean(self.norm, NORMS)}")
        if self.activation is not None and not isinstance(getattr(nn, self.activation, None), type):
            raise SurgeryError(
                f"{self.wrong('activation', 'the name of a class in torch.nn')}{did_you_mean(self.activation, dir(nn))}"
            )
        own = [name for name in _OF_R2R if getattr(self, name) != getattr(type(self), name)]
        if self.like is not None and own:
            raise SurgeryError(
                f"Deepen: like: expected no options of an R2R block beside it, got {own}; leave them out"
            )

    @property
    def places(self) -> tuple[str, ...]:
        """The modules that get a block."""
        return (self.after,) if isinstance(self.after, str) else self.after

    def edit(self, subject: Subject) -> Edit:
        """See `ModelGrowth.edit`."""
        if self.like is not None and (layers := self._as_layers(subject, self.like)) is not None:
            return layers
        return AddBlocks(subject, [self._block(subject, place) for place in self.places], thorough=self.check)

    def _as_layers(self, subject: Subject, like: str) -> NewLayers | None:
        """The same as new entries of a list, where the block to copy and all places are entries of one."""
        path, _, key = like.rpartition(".")
        modules = dict(subject.model.named_modules())
        if not isinstance(modules.get(path), (nn.ModuleList, nn.Sequential)) or like not in modules:
            return None
        if any(place.rpartition(".")[0] != path or place not in modules for place in self.places):
            return None
        keys = [name for name, _ in modules[path].named_children()]
        positions = sorted(keys.index(place.rpartition(".")[2]) for place in self.places)
        stack = find_stack(subject.model, path, tuple(positions))
        return NewLayers(subject, stack, thorough=self.check, like=keys.index(key))

    def _block(self, subject: Subject, place: str) -> NewBlock:
        graph = subject.graph
        known = [name for name, _ in graph.model.named_modules() if name]
        if place not in known:
            near = did_you_mean(place, known) or f"; pick one of {[n for n in graph.trace.module_outputs if n][:8]}"
            raise SurgeryError(
                f"after: expected the path of a module, got {place!r}; the model has no module {place!r}{near}"
            )
        if self.like is not None:
            return copied_block(subject, place, self.like)
        spec, dtype = block_spec(
            graph,
            place,
            kernel_size=self.kernel_size,
            hidden=self.hidden,
            norm=self.norm,
            activation=self.activation,
        )
        return new_block(subject, place, spec, dtype=dtype, scale=self.scale)

    def rebuild(self, model: nn.Module, changes: Mapping[str, Any]) -> None:
        """See `ModelGrowth.rebuild`."""
        if "stack" in changes:
            rebuild_layers(model, changes)
            return
        for after, spec in changes["blocks"]:
            module = model.get_submodule(after)
            if "like" in spec:
                graft(module, bare_copy(model.get_submodule(spec["like"])), like=True)
                continue
            made = BlockSpec(**spec)
            check_claim(made.num_weights, sum(p.numel() for p in model.parameters()), str(made))
            block = made.build()
            reference = next(iter(model.parameters()), None)
            if reference is not None:
                block.to(device=reference.device, dtype=reference.dtype)
            block.train(module.training)
            graft(module, block)
