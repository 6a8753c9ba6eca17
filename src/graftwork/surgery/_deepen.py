"""Deepen a model: graft a residual R2R block onto the output of any module."""

import math
import zlib
from dataclasses import dataclass, field
from typing import Any, Unpack

import torch
from torch import nn, optim

from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.numerics import reference_scale
from graftwork.surgery._block import default_scales, graft, ungraft
from graftwork.surgery._calls import Call, ExampleInput, call_of
from graftwork.surgery._check import Probes
from graftwork.surgery._configs import config_notes
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._options import DeepenOptions, Optimizers
from graftwork.surgery._receipt import SurgeryReceipt, TensorChange, describe
from graftwork.surgery._specs import BlockSpec, LikeSpec, around, block_spec
from graftwork.surgery._steps import append_log, count_parameters, forward_failed
from graftwork.surgery._transaction import Transaction
from graftwork.surgery._twin_copy import twin_copy
from graftwork.surgery._widen import optimizer_tuple
from graftwork.surgery.carry import adopt, check_optimizers

__all__ = ["BlockSpec", "DeepenPlan", "deepen", "plan_deepen"]


@dataclass(eq=False)
class DeepenPlan:
    """A deepening that has been checked and not yet been made; print it, then `apply` it.

    Attributes:
        model: The model it is for.
        after: Module whose output passes through the new block.
        spec: The block.
        tensors: The new parameters and buffers.
    """

    model: nn.Module
    after: str
    spec: "BlockSpec | LikeSpec"
    tensors: tuple[TensorChange, ...]
    notes: tuple[str, ...]
    _block: nn.Module = field(repr=False)
    _call: Call = field(repr=False)
    _optimizers: tuple[optim.Optimizer, ...] = field(repr=False)
    _check: bool = field(repr=False)

    def __str__(self) -> str:
        return f"deepen after {self.after} (r2r): {self.spec}\n" + describe(self.tensors, ())

    def apply(self) -> SurgeryReceipt:
        """Graft the block, or leave everything as it was.

        Returns:
            What changed.

        Raises:
            SurgeryError: The model's forward fails or never reaches the block.
            NotPreservedError: The outputs changed.
        """
        before = count_parameters(self.model)
        probes = Probes.before(self.model, self._call) if self._check else Probes([])
        module = self.model.get_submodule(self.after)
        with Transaction() as transaction:
            names: list[str] = []
            transaction.step(
                f"block after {self.after}",
                lambda: names.append(graft(module, self._block, like=isinstance(self.spec, LikeSpec))),
                lambda: names and ungraft(module, names[0]),
            )
            adopt(transaction, self._optimizers, self.model, module, self._block)
            if self._check:
                self._settle(probes)
            log = {"kind": "deepen", "after": self.after, "block": vars(self.spec).copy()}
            append_log(transaction, self.model, log)
        counts = (before, count_parameters(self.model))
        return SurgeryReceipt(
            "deepen", self.after, "r2r", self.tensors, (), (), probes.gaps, counts, self.notes, log=log
        )  # fmt: skip

    def _settle(self, probes: Probes) -> None:
        calls: list[int] = []
        handle = self._block.register_forward_hook(lambda *_: calls.append(1))
        try:
            worst = probes.compare(self.model)
        except Exception as error:
            raise forward_failed(self.after, error) from error
        finally:
            handle.remove()
        if not calls:
            raise SurgeryError(
                f"the block after {self.after!r} is never run: the model does not call that module's "
                f"forward. Pick the "
                "module around it"
            )
        if worst > 1.0:
            raise NotPreservedError(
                f"deepening after {self.after!r} changed the outputs by {probes.largest_gap:.2e} "
                f"relative; everything "
                "was put back"
            )


def plan_deepen(
    model: nn.Module, after: str, *, example_input: ExampleInput, **options: Unpack[DeepenOptions]
) -> DeepenPlan:
    """Plan to pass a module's output through a new residual R2R block; nothing changes until ``apply()``.

    The block computes ``y + β σ(norm(W y)) − β σ(norm(W y))``: a convolution where the channels are dimension
    1, a linear map where they are last. It becomes a child ``graft0`` (``graft1``, …) of the module, so no
    existing name in ``state_dict()`` changes.

    Args:
        model: Any eager ``nn.Module``.
        after: Path of the module; its output must be one floating-point tensor (or a tuple that starts with
            one).
        example_input: One batch as the model's forward takes it.
        **options: The keys of `DeepenOptions`: ``kernel_size`` (3), ``hidden`` (channels of the block), ``norm`` and
            ``activation`` (those of the neighborhood), ``like`` (path of a block to copy instead), ``optimizer`` (that
            shall train the block), ``check`` (True), ``generator``, ``scale`` (of new weights).

    Raises:
        SurgeryError: There is no such module, it is not run, or its output is no tensor of channels.
    """
    return _planned(model, after, example_input, **options)


def deepen(
    model: nn.Module, after: str, *, example_input: ExampleInput, **options: Unpack[DeepenOptions]
) -> SurgeryReceipt:
    """Pass a module's output through a new residual R2R block, in place: `plan_deepen` and ``apply()``.

    Raises the errors of `plan_deepen`, too.

    Args:
        model: Any eager ``nn.Module``; changed in place.
        after: As in `plan_deepen`.
        example_input: As in `plan_deepen`.
        **options: The keys of `DeepenOptions`: ``kernel_size`` (3), ``hidden`` (channels of the block), ``norm`` and
            ``activation`` (those of the neighborhood), ``like`` (path of a block to copy instead), ``optimizer`` (that
            shall train the block), ``check`` (True), ``generator``, ``scale`` (of new weights).

    Raises:
        NotPreservedError: The outputs changed; everything was put back.
    """
    return plan_deepen(model, after, example_input=example_input, **options).apply()


def _planned(
    model: nn.Module,
    after: str,
    example_input: ExampleInput,
    *,
    kernel_size: int = 3,
    hidden: int | None = None,
    norm: str | None = None,
    activation: str | None = None,
    like: str | None = None,
    optimizer: Optimizers = None,
    **options: Any,
) -> DeepenPlan:
    call = call_of(example_input)
    graph = ChannelGraph.of(model, call)
    if after not in dict(model.named_modules()) or not after:
        raise SurgeryError(f"the model has no module {after!r}: pick one of {list(graph.trace.module_outputs)[1:9]}")
    if like is not None:
        return _build_like(graph, after, like, call=call, optimizers=optimizer_tuple(optimizer), **options)
    spec, dtype = block_spec(graph, after, kernel_size=kernel_size, hidden=hidden, norm=norm, activation=activation)
    return _build(graph, after, spec, dtype=dtype, call=call, optimizers=optimizer_tuple(optimizer), **options)


def _build(
    graph: ChannelGraph,
    after: str,
    spec: BlockSpec,
    *,
    dtype: torch.dtype,
    call: Call,
    optimizers: tuple[optim.Optimizer, ...],
    generator: torch.Generator | None = None,
    check: bool = True,
    scale: float | None = None,
) -> DeepenPlan:
    check_optimizers(optimizers, graph.model)
    module = graph.model.get_submodule(after)
    weights = [p for m in around(graph.model, after) for p in m.parameters() if p.dim() >= 2]
    device = weights[0].device if weights else torch.device("cpu")
    block = spec.build()
    seed = zlib.crc32(f"{after}:{len(list(module.children()))}".encode())
    generator = generator if generator is not None else torch.Generator().manual_seed(seed)
    filters, mixing = default_scales(block)
    # One neighbor of another fan-in says what the trained scale is relative to LeCun's.
    if weights:
        fan = math.prod(weights[0].shape[1:])
        trained = reference_scale(weights[0], fan_in=fan) * math.sqrt(fan)
        filters, mixing = filters * trained, mixing * trained
    block.initialize(scale=filters if scale is None else scale, mix_scale=mixing, generator=generator)
    channels_last = spec.spatial == 2 and any(_is_channels_last(p) for p in weights)
    block.to(device=device, dtype=dtype)
    if channels_last:
        block.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    block.train(module.training)
    name = f"{after}.graft{len([n for n in module._modules if n.startswith('graft')])}"  # noqa: SLF001
    tensors = [*block.named_parameters(), *block.named_buffers()]
    changes = tuple(TensorChange(f"{name}.{leaf}", None, tuple(t.shape), "new") for leaf, t in tensors)
    notes = (*graph.notes, *config_notes(graph.model, after))
    return DeepenPlan(graph.model, after, spec, changes, notes, block, call, optimizers, check)


def _build_like(
    graph: ChannelGraph,
    after: str,
    like: str,
    *,
    call: Call,
    optimizers: tuple[optim.Optimizer, ...],
    generator: torch.Generator | None = None,
    check: bool = True,
) -> DeepenPlan:
    check_optimizers(optimizers, graph.model)
    if like not in graph.trace.module_outputs or not like:
        raise SurgeryError(f"like must be the path of a module that the example input runs, got {like!r}")
    module = graph.model.get_submodule(after)
    number = len([n for n in module._modules if n.startswith("graft")])  # noqa: SLF001
    seed = zlib.crc32(f"{after}:{like}:{number}".encode())
    generator = generator if generator is not None else torch.Generator().manual_seed(seed)
    block, note = twin_copy(graph, like, generator=generator)
    block.train(module.training)
    tensors = [*block.named_parameters(), *block.named_buffers()]
    name = f"{after}.graft{number}"
    changes = tuple(TensorChange(f"{name}.{leaf}", None, tuple(t.shape), "new") for leaf, t in tensors)
    notes = (*graph.notes, note, *config_notes(graph.model, after))
    return DeepenPlan(graph.model, after, LikeSpec(like), changes, notes, block, call, optimizers, check)


def _is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
