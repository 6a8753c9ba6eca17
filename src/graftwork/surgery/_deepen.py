"""Deepen a model: graft a residual R2R block onto the output of any module."""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn, optim

from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.numerics import reference_scale
from graftwork.surgery._block import R2RBlock, default_scales, graft, ungraft
from graftwork.surgery._calls import Call, ExampleInput, call_of
from graftwork.surgery._check import Probes
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._optimizers import adopt, check_optimizers
from graftwork.surgery._receipt import SurgeryReceipt, TensorChange, describe
from graftwork.surgery._space import atoms, size_of
from graftwork.surgery._steps import append_log, count_parameters, forward_failed
from graftwork.surgery._transaction import Transaction
from graftwork.surgery._twin_copy import twin_copy
from graftwork.surgery._widen import Optimizers, optimizer_tuple

__all__ = ["BlockSpec", "DeepenPlan", "deepen", "plan_deepen"]

_ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.Hardswish, nn.Mish, nn.Tanh,
nn.SELU,
                nn.CELU, nn.Softplus, nn.Sigmoid)  # fmt: skip
_BY_NAME = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "hardtanh": nn.ReLU6, "leaky_relu":
nn.LeakyReLU,
            "elu": nn.ELU, "hardswish": nn.Hardswish, "mish": nn.Mish, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
            "softplus": nn.Softplus}  # fmt: skip


@dataclass(frozen=True)
class BlockSpec:
    """Everything that makes an R2R block but its weights; plain data.

    Attributes:
        channels: Channels of input and output.
        hidden: Hidden channels of both halves.
        spatial: Spatial dimensions, 0 for a linear block.
        kernel_size: Size of the convolution.
        norm: Kind of norm.
        groups: Groups of a half for ``norm="group"``.
        activation: Class name in ``torch.nn``.
    """

    channels: int
    hidden: int
    spatial: int
    kernel_size: int = 3
    norm: str = "none"
    groups: int = 1
    activation: str = "ReLU"

    def build(self) -> R2RBlock:
        """Return the block with zero weights."""
        return R2RBlock(
            self.channels,
            self.hidden,
            spatial=self.spatial,
            kernel_size=self.kernel_size,
            norm=self.norm,
            groups=self.groups,
            activation=getattr(nn, self.activation)(),
        )


@dataclass(frozen=True)
class LikeSpec:
    """A new block that is a fresh copy of another one.

    Attributes:
        like: Path of the block that was copied.
    """

    like: str


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
            "deepen", self.after, "r2r", self.tensors, (), (), probes.gaps, counts, self.notes, log
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
    model: nn.Module,
    after: str,
    *,
    example_input: ExampleInput,
    kernel_size: int = 3,
    hidden: int | None = None,
    norm: str | None = None,
    activation: str | None = None,
    like: str | None = None,
    optimizer: Optimizers = None,
    **options: Any,
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
        kernel_size: Odd size of the convolution.
        hidden: Hidden channels of both halves together, even. None takes the number of channels.
        norm: ``"batch"``, ``"instance"``, ``"group"``, ``"layer"``, ``"rms"`` or ``"none"``. None takes what
            the neighborhood of the module uses.
        activation: Class name in ``torch.nn``. None takes what the neighborhood uses.
        like: Path of a residual block of the model (a transformer block, a ResNet block). The new block is
            then a copy of it with fresh weights of the same scale that starts as the identity, instead of an
            R2R block; it gets the arguments of the module that it follows. The options of the R2R block don't
            apply.
        optimizer: Optimizer or optimizers that shall train the block: it joins the group that trains its
            neighbors, with fresh state. None leaves optimizers alone.
        **options: ``generator`` (None derives one from the place), ``check`` (True), ``scale`` (standard
            deviation of W; None matches neighboring weights).

    Raises:
        SurgeryError: There is no such module, it is not run, or its output is no tensor of channels.
    """
    call = call_of(example_input)
    graph = ChannelGraph.of(model, call)
    if after not in dict(model.named_modules()) or not after:
        raise SurgeryError(f"the model has no module {after!r}: pick one of {list(graph.trace.module_outputs)[1:9]}")
    if like is not None:
        return _build_like(graph, after, like, call=call, optimizers=optimizer_tuple(optimizer), **options)
    spec, dtype = _spec(graph, after, kernel_size=kernel_size, hidden=hidden, norm=norm, activation=activation)
    return _build(graph, after, spec, dtype=dtype, call=call, optimizers=optimizer_tuple(optimizer), **options)


def deepen(
    model: nn.Module,
    after: str,
    *,
    example_input: ExampleInput,
    kernel_size: int = 3,
    hidden: int | None = None,
    norm: str | None = None,
    activation: str | None = None,
    like: str | None = None,
    optimizer: Optimizers = None,
    **options: Any,
) -> SurgeryReceipt:
    """Pass a module's output through a new residual R2R block, in place: `plan_deepen` and ``apply()``.

    Takes the arguments of `plan_deepen` and raises its errors.

    Raises:
        NotPreservedError: The outputs changed; everything was put back.
    """
    plan = plan_deepen(
        model,
        after,
        example_input=example_input,
        kernel_size=kernel_size,
        hidden=hidden,
        norm=norm,
        activation=activation,
        like=like,
        optimizer=optimizer,
        **options,
    )
    return plan.apply()


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
    weights = [p for m in _around(graph.model, after) for p in m.parameters() if p.dim() >= 2]
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
    return DeepenPlan(graph.model, after, spec, changes, tuple(graph.notes), block, call, optimizers, check)


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
    notes = (*graph.notes, note)
    return DeepenPlan(graph.model, after, LikeSpec(like), changes, notes, block, call, optimizers, check)


def _is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _around(model: nn.Module, path: str) -> Iterator[nn.Module]:
    """The module at a path, then its parents, innermost first."""
    while True:
        yield model.get_submodule(path)
        if not path:
            return
        path = path.rpartition(".")[0]


def _spec(
    graph: ChannelGraph,
    after: str,
    *,
    kernel_size: int,
    hidden: int | None,
    norm: str | None,
    activation: str | None,
) -> tuple[BlockSpec, torch.dtype]:
    if after not in graph.trace.module_outputs:
        raise SurgeryError(
            f"{after!r} can't be deepened: the example input does not run it, or its output is not "
            f"one floating-point "
            "tensor"
        )
    dims, dtype = graph.trace.module_outputs[after]
    if after in graph.trace.varying:
        raise SurgeryError(
            f"{after!r} can't be deepened: it runs several times with outputs of different shapes, so "
            f"one block can't "
            "follow it everywhere; pick the module around it"
        )
    if len(dims) < 2 or len(dims) > 5:
        raise SurgeryError(f"{after!r} can't be deepened: its output has {len(dims)} dimensions, expected 2 to 5")
    spatial = _spatial(graph, dims)
    channels = size_of(dims[1 if spatial else -1])
    if spatial and kernel_size % 2 == 0:
        raise SurgeryError(f"kernel_size must be odd, got {kernel_size!r}")
    width = hidden if hidden is not None else channels + channels % 2
    if width < 2 or width % 2:
        raise SurgeryError(f"hidden must be even and at least 2 (two halves), got {width!r}")
    kind, groups = _norm_like(graph.model, after, spatial) if norm is None else (norm, 1)
    if norm is None and spatial and all(size_of(expr) == 1 for expr in dims[2:]):
        kind, kernel_size = "none", 1  # one pixel: a gate or a head; no statistics, no neighbors
    if kind == "group":
        groups = math.gcd(groups, width // 2)
    if kind not in {"batch", "instance", "group", "layer", "rms", "none"}:
        raise SurgeryError(f"norm must be batch, instance, group, layer, rms or none, got {kind!r}")
    function = activation if activation is not None else _activation_like(graph, after)
    if not isinstance(getattr(nn, function, None), type):
        raise SurgeryError(f"activation must be the name of a class in torch.nn, got {function!r}")
    return BlockSpec(channels, width, spatial, kernel_size if spatial else 1, kind, groups, function), dtype


def _spatial(graph: ChannelGraph, dims: list[Any]) -> int:
    """Channels are the dimension that parameters share; dimension 1 of images, the last one of sequences."""
    owned = {id(var) for spaces in graph.trace.spaces.values() for expr in spaces for var in atoms(expr)}
    holds = [any(id(var) in owned for var in atoms(expr)) for expr in dims]
    if len(dims) == 2:
        return 0
    if holds[-1] and not holds[1]:
        return 0
    if holds[1] and not holds[-1]:
        return len(dims) - 2
    return len(dims) - 2 if len(dims) >= 4 else 0


def _norm_like(model: nn.Module, after: str, spatial: int) -> tuple[str, int]:
    for module in _around(model, after):
        for child in module.modules():
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and spatial:  # noqa: SLF001
                return "batch", 1
            if isinstance(child, nn.modules.instancenorm._InstanceNorm) and spatial:  # noqa: SLF001
                return "instance", 1
            if isinstance(child, nn.GroupNorm) and spatial:
                return "group", child.num_groups
            if isinstance(child, nn.LayerNorm) and not spatial:
                return "layer", 1
            if "RMSNorm" in type(child).__name__ and not spatial:
                return "rms", 1
    return "none", 1


def _activation_like(graph: ChannelGraph, after: str) -> str:
    for module in _around(graph.model, after):
        for child in module.modules():
            if isinstance(child, _ACTIVATIONS):
                return next(kind.__name__ for kind in _ACTIVATIONS if isinstance(child, kind))
    for name in reversed(graph.trace.activations):
        found = _BY_NAME.get(name.rstrip("_"))
        if found is not None and name not in {"sigmoid", "tanh"}:
            return found.__name__
    return "ReLU"
