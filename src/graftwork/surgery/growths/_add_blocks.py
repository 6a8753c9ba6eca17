"""The edit that deepening makes: new blocks behind modules, whose forward passes through them."""

import copy
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.numerics import reference_scale
from graftwork.surgery._attributes import AttributeChange
from graftwork.surgery._block import default_scales
from graftwork.surgery._calls import first_line
from graftwork.surgery._changes import TensorChange
from graftwork.surgery._check import Check, Thoroughness
from graftwork.surgery._configs import config_notes
from graftwork.surgery._graft import graft, grafts_of, ungraft
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._specs import BlockSpec, LikeSpec, around
from graftwork.surgery._transaction import Transaction
from graftwork.surgery._twin_copy import twin_copy
from graftwork.surgery.carry import adopt
from graftwork.surgery.growths._growth import Edit, Subject
from graftwork.surgery.growths._undo import Undo, Ungraft
from graftwork.surgery.layers import Uses


@dataclass(frozen=True)
class NewBlock:
    """A block that has been made and not yet been grafted.

    Attributes:
        after: Module whose output will pass through it.
        spec: What it is made of.
        module: The block.
        note: How it starts as the identity, where that is worth saying.
    """

    after: str
    spec: BlockSpec | LikeSpec
    module: nn.Module
    note: str = ""


class AddBlocks(Edit):
    """Some modules of a model pass their outputs through new blocks.

    Args:
        subject: The traced model and what goes along.
        blocks: The blocks, each behind another module.
        thorough: How much is checked.
    """

    method = "r2r"

    def __init__(self, subject: Subject, blocks: Sequence[NewBlock], *, thorough: Thoroughness = True) -> None:
        model = subject.model
        self._subject, self._blocks, self._thorough = subject, tuple(blocks), thorough
        self._uses = Uses({})
        self.sites = tuple(block.after for block in blocks)
        self.label = ", ".join(self.sites)
        self.specs = tuple(block.spec for block in blocks)
        self.details = tuple(f"block after {block.after}: {block.spec}" for block in blocks)
        self.tensors = tuple(change for block in blocks for change in _new_tensors(model, block))
        configs = [note for block in blocks for note in config_notes(model, block.after)]
        notes = (*subject.graph.notes, *(block.note for block in blocks if block.note), *configs)
        self.notes = tuple(dict.fromkeys(notes))

    def make(self, transaction: Transaction) -> list[str]:
        """See `Edit.make`."""
        model = self._subject.model
        if self._thorough is True:
            self._uses = Uses.before(model, self._subject.graph.probes[0].call)
        for block in self._blocks:
            _hang(transaction, model, block)
            adopt(transaction, self._subject.optimizers, model, model.get_submodule(block.after), block.module)
            for mirror in self._subject.mirrors:
                _hang(transaction, mirror, replace(block, module=copy.deepcopy(block.module)))
        return []

    def settle(self, transaction: Transaction, check: Check) -> tuple[AttributeChange, ...]:
        """See `Edit.settle`."""
        if not check.runs:
            return ()
        ran: set[nn.Module] = set()
        handles = [b.module.register_forward_hook(lambda module, *_: ran.add(module)) for b in self._blocks]
        try:
            worst = check.compare(transaction)
            if self._uses.runs:
                worst = max(worst, self._uses.compare(self._subject.model)[0])
        except Exception as error:
            used = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
            raise SurgeryError(
                f"the model's forward fails with a block behind {self.label}{used} ({first_line(error)}); "
                "everything was put back. Pick the module around it"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        check.gaps.update(self._uses.gaps)
        for block in self._blocks:
            if block.module not in ran:
                raise SurgeryError(
                    f"{block.after!r} can't be deepened: the block behind it is never run, as the model does not call "
                    "that module's forward; pick the module around it"
                )
        if worst > 1.0:
            raise NotPreservedError(
                f"deepening after {self.label}: expected the same outputs within rounding, got a relative change of "
                f"{check.largest_gap:.2e}; everything was put back"
            )
        return ()

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every block among the children of its module, once it is made."""
        return tuple(grafts_of(self._subject.model.get_submodule(block.after))[-1] for block in self._blocks)

    def undo(self) -> Undo:
        """See `Edit.undo`."""
        likes = [isinstance(block.spec, LikeSpec) for block in self._blocks]
        return Ungraft(tuple(zip(self.sites, self.names, likes, strict=True)))

    def changes(self, attributes: tuple[AttributeChange, ...]) -> dict[str, Any]:
        """See `Edit.changes`."""
        return {"blocks": [[block.after, asdict(block.spec)] for block in self._blocks]}


def _hang(transaction: Transaction, model: nn.Module, block: NewBlock) -> None:
    module = model.get_submodule(block.after)
    block.module.train(module.training)
    names: list[str] = []
    transaction.step(
        f"block after {block.after}", partial(_graft, module, block, names), partial(_ungraft, module, names)
    )


def _graft(module: nn.Module, block: NewBlock, names: list[str]) -> None:
    names[:] = [f"graft{len(grafts_of(module))}"]  # before anything changes, so that a half-made graft is undone
    graft(module, block.module, like=isinstance(block.spec, LikeSpec))


def _ungraft(module: nn.Module, names: list[str]) -> None:
    for name in names:
        ungraft(module, name)


def _new_tensors(model: nn.Module, block: NewBlock) -> list[TensorChange]:
    name = f"{block.after}.graft{len(grafts_of(model.get_submodule(block.after)))}"
    tensors = [*block.module.named_parameters(), *block.module.named_buffers()]
    return [TensorChange(f"{name}.{leaf}", None, tuple(t.shape), "new") for leaf, t in tensors]


def new_block(
    subject: Subject, after: str, spec: BlockSpec, *, dtype: torch.dtype, scale: float | None = None
) -> NewBlock:
    """Return an R2R block of a scale with its neighborhood, as it starts.

    Args:
        subject: The traced model and what goes along.
        after: Module whose output will pass through the block.
        spec: What the block is made of.
        dtype: Data type of its tensors.
        scale: Standard deviation of W. None matches the weights that are there.
    """
    model, block = subject.model, spec.build()
    module = model.get_submodule(after)
    weights = [p for m in around(model, after) for p in m.parameters() if p.dim() >= 2]
    seed = zlib.crc32(f"{after}:{len(list(module.children()))}".encode())
    generator = subject.generator or torch.Generator().manual_seed(seed)
    filters, mixing = default_scales(block)
    # One neighbor of another fan-in says what the trained scale is relative to LeCun's.
    if weights:
        fan = math.prod(weights[0].shape[1:])
        trained = reference_scale(weights[0], fan_in=fan) * math.sqrt(fan)
        filters, mixing = filters * trained, mixing * trained
    block.initialize(scale=filters if scale is None else scale, mix_scale=mixing, generator=generator)
    channels_last = spec.spatial == 2 and any(_is_channels_last(p) for p in weights)
    block.to(device=weights[0].device if weights else torch.device("cpu"), dtype=dtype)
    if channels_last:
        block.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    block.train(module.training)
    return NewBlock(after, spec, block)


def copied_block(subject: Subject, after: str, like: str) -> NewBlock:
    """Return a copy of a residual block with fresh weights, as it starts.

    Args:
        subject: The traced model and what goes along.
        after: Module whose output will pass through the copy.
        like: Path of the block to copy.

    Raises:
        SurgeryError: The example runs no such module, or its branches can't be silenced.
    """
    graph: ChannelGraph = subject.graph
    if like not in graph.trace.module_outputs or not like:
        raise SurgeryError(f"like must be the path of a module that the example input runs, got {like!r}")
    module = graph.model.get_submodule(after)
    seed = zlib.crc32(f"{after}:{like}:{len(grafts_of(module))}".encode())
    generator = subject.generator or torch.Generator().manual_seed(seed)
    block, note = twin_copy(graph, like, generator=generator)
    block.train(module.training)
    return NewBlock(after, LikeSpec(like), block, note)


def _is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
