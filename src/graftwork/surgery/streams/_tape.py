"""The operations of one run, in order: what the reading of a stream is made from."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from graftwork.surgery._adapters import refuse_adapters
from graftwork.surgery._calls import EVALUATION, Call, sandbox, set_mode
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._space import Expr
from graftwork.surgery._trace import Info, Trace, output_tensors
from graftwork.surgery.operations import bind

_STEPS = 4  # powers are halves, at most so large
_MOST_POWER = 4.0


@dataclass(frozen=True)
class Ref:
    """One tensor of a run, by its number."""

    number: int


@dataclass(frozen=True)
class Fact:
    """What is known of one tensor of a run.

    Attributes:
        shape: Its lengths.
        dims: Index space of every dimension.
        parameter: Name of the parameter or buffer that it is a view of, None for others.
        sources: For a view of a parameter, which of its dimensions every dimension comes from.
        dtype: Its type.
    """

    shape: tuple[int, ...]
    dims: tuple[Expr, ...]
    parameter: str | None
    sources: tuple[frozenset[int], ...]
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        name: Name of the operation, without namespace and overload.
        place: Path of the module that ran it.
        values: Arguments by name, with a `Ref` for every tensor.
        numbers: Arguments that are one number (also tensors without dimensions), by name.
        outputs: Tensors that came out.
        written: For an operation in place on a view, the other tensors that share its memory, before and after.
        func: The operation itself.
    """

    name: str
    place: str
    values: dict[str, Any]
    numbers: dict[str, float]
    outputs: tuple[Ref, ...]
    written: tuple[tuple[Ref, Ref], ...] = ()
    func: Any = None

    @property
    def inputs(self) -> list[Ref]:
        """Tensors that went in."""
        return [leaf for leaf in tree_flatten(self.values)[0] if isinstance(leaf, Ref)]


@dataclass
class Tape:
    """The operations of a run in evaluation mode.

    Attributes:
        nodes: The operations.
        facts: What is known of each tensor.
        outputs: Tensors that the model returned.
    """

    nodes: list[Node] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    outputs: list[Ref] = field(default_factory=list)

    @classmethod
    def of(cls, graph: ChannelGraph, call: Call) -> "Tape":
        """Run a traced model once more, in evaluation mode, and note every operation.

        Raises:
            SurgeryError: The model has adapters.
        """
        refuse_adapters(graph.model, "a wider stream")
        return cls._run(graph.trace, call)

    @classmethod
    def again(cls, graph: ChannelGraph, call: Call) -> "Tape":
        """Run the model as it is now, whose widths may be others than those of the trace."""
        return cls._run(Trace(graph.model, graph.trace.handlers), call)

    @classmethod
    def _run(cls, trace: Trace, call: Call) -> "Tape":
        tape = cls()
        recorder = _Recorder(tape, trace)
        with sandbox(trace.model):
            set_mode(trace.model, EVALUATION)
            trace.observer = recorder
            try:
                result = trace.run(call)
            finally:
                trace.observer = None
        tape.outputs = [recorder.ref(tensor) for tensor in output_tensors(result)]
        return tape


class _Recorder:
    def __init__(self, tape: Tape, trace: Trace) -> None:
        self._tape, self._trace = tape, trace
        self._refs: Any = WeakTensorKeyDictionary()
        self._sharing: dict[int, Any] = {}  # storage → the tensors that live in it

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        values = bind(func, args, kwargs)
        noted = tree_map(self._noted, values)
        numbers = {name: number for name, value in values.items() if (number := self._number(value)) is not None}
        before = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        outputs, written = [], []
        for leaf in tree_flatten(result)[0]:
            if not isinstance(leaf, Tensor):
                continue
            if any(leaf is tensor for tensor in before) and not func._schema.is_mutable:  # noqa: SLF001
                outputs.append(self.ref(leaf))  # the very tensor that went in
                continue
            if any(leaf is tensor for tensor in before):
                written += self._rewritten(leaf)
            outputs.append(self._new(leaf))
        name = str(func._overloadpacket).removeprefix("aten.")  # noqa: SLF001 - the only way to the name
        self._tape.nodes.append(Node(name, self._trace.place, noted, numbers, tuple(outputs), tuple(written), func))

    def _number(self, value: Any) -> float | None:
        """A number that does not hang on data: of Python, of a tensor that is a constant or shows a parameter."""
        if isinstance(value, Tensor) and self._trace.depends(value) and self._trace.info(value).parameter is None:
            return None
        return _number(value)

    def _noted(self, leaf: Any) -> Any:
        return self.ref(leaf) if isinstance(leaf, Tensor) else leaf

    def ref(self, tensor: Tensor) -> Ref:
        """Return the number of a tensor as it is now."""
        found = self._refs.get(tensor)
        return found if found is not None else self._new(tensor)

    def _new(self, tensor: Tensor) -> Ref:
        info: Info = self._trace.info(tensor)
        sources = tuple(info.sources) if info.parameter is not None else ()
        self._tape.facts.append(Fact(tuple(tensor.shape), tuple(info.dims), info.parameter, sources, tensor.dtype))
        ref = Ref(len(self._tape.facts) - 1)
        self._refs[tensor] = ref
        if (key := _storage(tensor)) is not None:
            self._sharing.setdefault(key, WeakTensorKeyDictionary())[tensor] = True
        return ref

    def _rewritten(self, tensor: Tensor) -> list[tuple[Ref, Ref]]:
        """Number anew every other tensor that shows what was written."""
        key = _storage(tensor)
        others = list(self._sharing.get(key, {})) if key is not None else []
        return [(self._refs[other], self._new(other)) for other in others if other is not tensor]


def _storage(tensor: Tensor) -> int | None:
    try:
        return tensor.untyped_storage()._cdata if tensor.numel() else None  # noqa: SLF001 - what names a storage
    except (RuntimeError, NotImplementedError):  # wrapped by vmap
        return None


def _number(value: Any) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, Tensor) and value.dim() == 0 and value.dtype != torch.bool and not value.is_complex():
        try:
            return float(value)
        except RuntimeError:  # wrapped by vmap
            return None
    return None


class UnevenError(Exception):
    """A number of the forward changes with the width in a way that no power of the ratio describes."""


def powers(before: Tape, after: Tape, ratio: float) -> Callable[[int, str], float]:
    """Return which power of a ratio every number of a run has changed by, as a function of node and argument.

    Args:
        before: The run of the model as it was.
        after: The run of the same model with larger widths. Data may have taken it through other experts: numbers are
            compared module by module and operation by operation.
        ratio: The unit, above 1.

    Returns:
        The function; it raises `UnevenError` for a number that has changed by something else.
    """
    found, counts = _by_place(after), _by_place(before)
    seen: dict[tuple[str, str], int] = {}
    changed: dict[tuple[int, str], tuple[float, float]] = {}
    for at, node in enumerate(before.nodes):
        key = (node.place, node.name)
        place = seen[key] = seen.get(key, -1) + 1
        others = found.get(key, [])
        if len(others) != len(counts[key]):
            if node.numbers in others or not others:
                continue
            place = 0
        for name, old in node.numbers.items():
            new = others[place].get(name, old)
            if old != new:
                changed[at, name] = (old, new)

    def power(at: int, name: str) -> float:
        return _power(*changed[at, name], ratio, before.nodes[at]) if (at, name) in changed else 0.0

    return power


def _by_place(tape: Tape) -> dict[tuple[str, str], list[dict[str, float]]]:
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for node in tape.nodes:
        found.setdefault((node.place, node.name), []).append(node.numbers)
    return found


def _power(old: float, new: float, ratio: float, node: Node) -> float:
    quotient = new / old if old else math.nan
    power = math.log(quotient) / math.log(ratio) if quotient > 0 and math.isfinite(quotient) else math.nan
    near = round(power * _STEPS) / _STEPS if math.isfinite(power) and abs(power) <= _MOST_POWER else math.nan
    if not abs(power - near) < 1e-4:
        raise UnevenError(
            f"{node.name} in {node.place!r} takes the number {old:.6g}, and {new:.6g} when the model is wider"
        )
    return near
