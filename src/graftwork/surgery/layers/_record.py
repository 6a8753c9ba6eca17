"""Record what one entry of a stack computes: every ATen operation with its operands, and how the stream passes.

The *stream* is the entry's first floating-point input as it travels to the output: ``x`` in ``x + branch(norm(x))``.
Beside each tensor that carries it the record keeps what the tensor would be if every branch added zero (`Node.plain`),
by running the same operation on the entry's input alone. So "this still is the stream" is a comparison of values, not a
list of operations: a view, a copy, a rectifier over what is rectified already.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from graftwork.surgery._trace import output_tensors

_NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")


@dataclass(eq=False)
class Node:
    """One tensor of the record.

    Attributes:
        value: The tensor, as it was made.
        op: Name of the operation that made it; ``""`` for what came from outside.
        func: The operation, None from outside.
        args: Its positional arguments, tensors replaced by their nodes.
        kwargs: Its keyword arguments, likewise.
        parameter: Name of the parameter, for the parameter itself.
        fixed: Whether it is made of parameters and constants alone.
        plain: For the stream: what the tensor would be if the branches added nothing. None for all else.
        branches: For the stream: what was added to it so far.
        through: For the stream: norms that it has passed, which no addition of zero can undo.
    """

    value: Tensor
    op: str = ""
    func: Any = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    parameter: str | None = None
    fixed: bool = True
    plain: Tensor | None = None
    branches: "tuple[Node, ...]" = ()
    through: tuple[str, ...] = ()

    @property
    def operands(self) -> "list[Node]":
        """The nodes among the arguments."""
        return [leaf for leaf in tree_flatten((self.args, self.kwargs))[0] if isinstance(leaf, Node)]

    @property
    def is_norm(self) -> bool:
        """Whether a norm made it."""
        return any(kind in self.op for kind in _NORMS)

    def again(self, replaced: "dict[int, Tensor]") -> Any:
        """Run the operation once more with other values for some operands (by the ``id`` of their node)."""

        def value(leaf: Any) -> Any:
            if not isinstance(leaf, Node):
                return leaf
            found = replaced.get(id(leaf), leaf.value)
            return found.clone() if self.func._schema.is_mutable else found  # noqa: SLF001 - no other way to know

        args, kwargs = tree_map(value, (list(self.args), self.kwargs))
        return self.func(*args, **kwargs)


@dataclass(eq=False)
class Entry:
    """What one run of an entry has shown.

    Attributes:
        stream: The entry's first floating-point input.
        output: Its first floating-point output.
    """

    stream: Node | None
    output: Node | None


class _Recorder(TorchDispatchMode):
    """Holds every tensor of the entry alive, so that no identity is used twice."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = names
        self._nodes: dict[int, Node] = {}
        self._alive: list[Tensor] = []
        self._storages: dict[int, list[Tensor]] = {}

    def begin(self, inputs: list[Tensor]) -> Node | None:
        first = next((tensor for tensor in inputs if tensor.is_floating_point()), None)
        for tensor in inputs:
            self._put(tensor, Node(tensor, fixed=False))
        if first is None:
            return None
        node = self.node(first)
        node.plain = node.value = first.detach().clone()  # an in-place forward may change the original
        return node

    def node(self, tensor: Tensor) -> Node:
        found = self._nodes.get(id(tensor))
        if found is None:
            name = self._names.get(id(tensor))
            # What was made outside of the entry may depend on the batch; parameters and buffers do not.
            found = Node(tensor, parameter=name, fixed=name is not None or isinstance(tensor, nn.Parameter))
            self._put(tensor, found)
        return found

    def _put(self, tensor: Tensor, node: Node) -> None:
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)
        if tensor.layout is torch.strided:
            self._storages.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)  # noqa: SLF001

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        nodes = tree_map(lambda leaf: self.node(leaf) if isinstance(leaf, Tensor) else leaf, (list(args), keywords))
        written = _written(func, args, keywords)
        for tensor in written:
            node = self.node(tensor)
            node.value = tensor.detach().clone()  # as it was before it is overwritten
        result = func(*args, **keywords)
        name = str(func._overloadpacket.__name__)  # noqa: SLF001 - the only way to the name
        for leaf in tree_flatten(result)[0]:
            if isinstance(leaf, Tensor):
                self._made(leaf, Node(leaf, name, func, tuple(nodes[0]), nodes[1]), written)
        return result

    def _made(self, tensor: Tensor, node: Node, written: list[Tensor]) -> None:
        node.fixed = bool(node.operands) and all(operand.fixed for operand in node.operands)
        follow_stream(node)
        if not any(tensor is other for other in written):
            self._put(tensor, node)
            return
        for alias in self._storages.get(tensor.untyped_storage()._cdata, []):  # noqa: SLF001
            # A view of what was written holds something of both: zero if both are.
            old = self.node(alias)
            mixed = Node(alias, "written", None, (old, node), fixed=old.fixed and node.fixed)
            self._nodes[id(alias)] = node if alias is tensor else mixed
        self._put(tensor, node)


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    schema = func._schema  # noqa: SLF001 - the only way to know what an operation writes to
    if not schema.is_mutable:
        return []
    found: list[Tensor] = []
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            found += [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]
    return found


# -- the stream
# -------------------------------------------------------------------------------------------------------------


def follow_stream(node: Node) -> None:
    """Note whether a result still is the stream, and what was added to it on the way."""
    streams = [operand for operand in node.operands if operand.plain is not None]
    if not streams or not node.value.is_floating_point() or isinstance(node.func, torch._ops.HigherOrderOperator):  # noqa: SLF001
        return
    for stream in dict.fromkeys(streams):
        others = [o for o in node.operands if o is not stream and o.value.is_floating_point()]
        name = node.op.rstrip("_")
        if node.operands[0] is stream:
            is_sum = name in {"add", "sub", "addmm", "addcmul", "baddbmm"}
        else:
            is_sum = name == "add" and len(others) == 1 and others[0] is node.operands[0]
        if is_sum:
            added, plain = _sum(node, stream, others), _alone(node, stream, others)
        else:
            added, plain = (), _same(node, stream)
        through = stream.through
        if plain is None and node.is_norm and node.operands[0] is stream:
            plain, through = stream.plain, (*through, next((o.parameter for o in others if o.parameter), node.op))
        if plain is not None and plain.shape == node.value.shape:
            node.plain, node.branches, node.through = plain, (*stream.branches, *added), through
            return


def _sum(node: Node, stream: Node, others: list[Node]) -> tuple[Node, ...]:
    """The branch that an addition adds: the other operand, or the product that a fused operation makes of two."""
    if len(others) == 1:
        return (others[0],)
    part = Node(node.value, f"product in {node.op}", node.func, node.args, node.kwargs, fixed=False)
    part.args = tuple(_zero(arg) if arg is stream else arg for arg in node.args)
    return (part,)


def _zero(node: Node) -> Node:
    return Node(torch.zeros_like(node.value))


def _alone(node: Node, stream: Node, others: list[Node]) -> Tensor | None:
    """The sum with zero for all that is added; None where it is not the stream as it came."""
    assert stream.plain is not None
    zeros = {id(other): torch.zeros_like(other.value) for other in others}
    return _unchanged(node, stream, {id(stream): stream.plain, **zeros})


def _same(node: Node, stream: Node) -> Tensor | None:
    assert stream.plain is not None
    if len([o for o in node.operands if o.plain is not None]) > 1:
        return None
    return _unchanged(node, stream, {id(stream): stream.plain})


def _unchanged(node: Node, stream: Node, values: dict[int, Tensor]) -> Tensor | None:
    """What the operation makes of the stream alone, if that is the stream again."""
    assert stream.plain is not None
    try:
        result = node.again(values)
    except Exception:  # whatever an operation raises on other values
        return None
    if not isinstance(result, Tensor) or result.numel() != stream.plain.numel():
        return None
    if any(r.alias_info is not None and not r.alias_info.is_write for r in node.func._schema.returns):  # noqa: SLF001
        return result  # a view of all of it
    if node.op in {"_to_copy", "_unsafe_view", "clone"}:  # the same numbers, as far as the dtype holds them
        return result
    if result.shape != stream.plain.shape:
        return None
    return result if torch.equal(result.to(stream.plain.dtype), stream.plain) else None


# -- one run
# -------------------------------------------------------------------------------------------------------------


@contextmanager
def recording(model: nn.Module, entries: list[nn.Module], found: Callable[[int, Entry], None]) -> Iterator[None]:
    """Record the first run of some entries while the model runs inside.

    Args:
        model: Its parameters and buffers are known by name.
        entries: The modules to record; none may contain another.
        found: Called with an entry's number as soon as it has run; its record is dropped afterwards.
    """
    names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    running: list[tuple[_Recorder, Node | None]] = []
    seen: set[int] = set()

    def before(number: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            if number in seen or running:
                return
            recorder = _Recorder(names)
            leaves = tree_flatten((list(args), kwargs))[0]
            stream = recorder.begin([leaf for leaf in leaves if isinstance(leaf, Tensor)])
            recorder.__enter__()  # type: ignore[no-untyped-call]
            running.append((recorder, stream))

        return hook

    def after(number: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if number in seen or not running:
                return
            recorder, stream = running.pop()
            recorder.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            seen.add(number)
            first = next((leaf for leaf in output_tensors(output) if leaf.is_floating_point()), None)
            found(number, Entry(stream, recorder.node(first) if first is not None else None))

        return hook

    handles = []
    for number, module in enumerate(entries):
        handles.append(module.register_forward_pre_hook(before(number), with_kwargs=True))
        handles.append(module.register_forward_hook(after(number)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for recorder, _ in running:  # the forward failed inside an entry
            recorder.__exit__(None, None, None)  # type: ignore[no-untyped-call]
