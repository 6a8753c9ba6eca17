"""Run a model once and follow every dimension of every tensor.

The trace works below autograd, on ATen operations (a ``TorchDispatchMode``), so a user's ``forward`` may be
written in any way: functional calls, parameters used directly, views, loops, data-dependent branches. Every
operation has a handler (`graftwork.surgery.operations`) that says what it does to index spaces; an operation without
one freezes what it touches.
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakTensorKeyDictionary

from graftwork.surgery._calls import Call, quiet_kernels
from graftwork.surgery._space import Expr, Misaligned, Reason, freeze, fresh, size_of, unify


@dataclass
class Info:
    """What is known about one tensor of the trace.

    Attributes:
        dims: Index space of every dimension.
        parameter: Name of the parameter or buffer that this tensor is a view of, else None.
        sources: For a view of a parameter, which of its dimensions every dimension comes from.
        computed: True where the values derive from parameters alone but are not a view of one.
    """

    dims: list[Expr]
    parameter: str | None = None
    sources: list[frozenset[int]] = field(default_factory=list)
    computed: bool = False


@dataclass(frozen=True)
class Use:
    """One use of one dimension of a parameter.

    Attributes:
        dim: Dimension of the parameter.
        expr: The index space that the use concerned.
        consumed: True where the use summed over the dimension (input of a linear map), False where the
            dimension became a dimension of an activation.
    """

    dim: int
    expr: Expr
    consumed: bool


INPUT, OUTPUT = "a dimension of the model's input", "a dimension of the model's output"
LOOKED_UP = "a dimension that is looked up by index"
"""Why volumes are frozen that only `WidenInputs` and `WidenOutputs` may grow."""

# What Tensor methods give away without an ATen operation.
_OUT_OF_SIGHT = frozenset({"numpy", "tolist", "__array__", "__dlpack__", "apply_", "map_", "map2_"})

Handler = Callable[["Trace", Any, tuple[Any, ...], dict[str, Any], Any], None]


class Trace:
    """Everything one or more runs of a model have shown about its index spaces.

    Attributes:
        model: The model that runs.
        tensors: Name → parameter or buffer, every shared tensor once.
        spaces: Name → index space of every dimension.
        uses: Name → how its dimensions are used.
        outputs: Names of tensors whose first use made an activation: (name, dimension) pairs in order of use.
        groups: Module path → group dimension of a grouped convolution or group norm.
        normalized: Module path → dimensions that a layer norm runs over.
        ties: Groups of dimensions that must keep equal lengths (the pieces of a ``chunk``).
        module_outputs: Module path → dims and type of its output (of the first tensor of a tuple), at its
            first run.
        computed: Paths of modules that multiply by a weight that is computed from parameters.
        taken: Dims of every tensor of the call, at the first run.
        varying: Modules that run several times with outputs of different shapes.
        activations: Names of the activation functions that ran, in order.
        reads: Lines of code where Python has read values that depend on activations: the way that the forward takes
            may depend on them.
        observer: Called with every operation, its arguments and its result, after its handler; None for none.
    """

    def __init__(self, model: nn.Module, handlers: Mapping[str, Handler]) -> None:
        self.handlers = handlers
        self.tensors: dict[str, Tensor] = {}
        self.spaces: dict[str, list[Expr]] = {}
        self.uses: dict[str, list[Use]] = {}
        self.outputs: dict[tuple[str, int], str] = {}
        self.groups: dict[str, Expr] = {}
        self.normalized: dict[str, list[Expr]] = {}
        self.ties: list[list[Expr]] = []
        self.module_outputs: dict[str, tuple[list[Expr], torch.dtype]] = {}
        self.computed: set[str] = set()
        self.taken: list[list[Expr]] = []
        self.varying: set[str] = set()
        self.activations: list[str] = []
        self.reads: dict[str, None] = {}
        self.stack: list[str] = []
        self.observer: Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None] | None = None
        self._real: Any = WeakTensorKeyDictionary()
        self._infos: Any = WeakTensorKeyDictionary()
        self.model = model
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self.tensors[name] = tensor
            dims = [fresh(size) for size in tensor.shape]
            self.spaces[name] = dims
            self.uses[name] = []

    # -- one run
    # -------------------------------------------------------------------------------------------------

    def run(self, call: Call) -> Any:
        """Run the model in its present mode and follow it; inputs and outputs are frozen.

        Returns:
            What the model returned.
        """
        call = call.copied()
        self._infos, self._real = WeakTensorKeyDictionary(), WeakTensorKeyDictionary()
        for name, tensor in self.tensors.items():
            sources = [frozenset({dim}) for dim in range(tensor.dim())]
            self._infos[tensor] = Info(list(self.spaces[name]), name, sources)
        taken = []
        for leaf in tree_flatten((list(call.arguments), call.keywords))[0]:
            if isinstance(leaf, Tensor):
                self._infos[leaf] = Info([fresh(n, Reason(INPUT)) for n in leaf.shape])
                taken.append(list(self._infos[leaf].dims))
                if leaf.is_floating_point():
                    self._real[leaf] = True
        self.taken = self.taken or taken
        with (
            quiet_kernels(),
            warnings.catch_warnings(),
            torch.no_grad(),
            call.around(self.model),
            self._module_stack(),
            _Mode(self),
            _Calls(self),
        ):
            warnings.simplefilter("ignore")
            result = self.model(*call.arguments, **call.keywords)
        for leaf in output_tensors(result):
            info = self.info(leaf)
            for expr in info.dims:
                freeze(expr, Reason(OUTPUT))
        return result

    @contextmanager
    def _module_stack(self) -> Iterator[None]:
        handles = []
        for name, module in self.model.named_modules(remove_duplicate=True):
            handles.append(module.register_forward_pre_hook(self._enter(name)))
            handles.append(module.register_forward_hook(self._leave(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.stack.clear()

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any) -> None:
            self.stack.append(name)

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if self.stack and self.stack[-1] == name:
                self.stack.pop()
            if isinstance(output, (tuple, list)) and output:
                output = output[0]
            if isinstance(output, Tensor) and output.is_floating_point():
                dims = list(self.info(output).dims)
                before = self.module_outputs.setdefault(name, (dims, output.dtype))[0]
                if [size_of(e) for e in before[1:]] != [size_of(e) for e in dims[1:]]:
                    self.varying.add(name)

        return hook

    # -- what handlers use
    # ---------------------------------------------------------------------------------------

    @property
    def place(self) -> str:
        """Path of the module that is running."""
        return self.stack[-1] if self.stack else ""

    def info(self, tensor: Tensor) -> Info:
        """Return what is known about a tensor; one never seen before is a constant of the model."""
        found = self._infos.get(tensor)
        if found is None:
            reason = Reason("a constant tensor that is neither parameter nor buffer")
            found = Info([fresh(n, reason) for n in tensor.shape])
            self._infos[tensor] = found
        return found  # type: ignore[no-any-return]

    def put(self, tensor: Any, info: Info) -> None:
        """Note what is known about a result; in-place results keep being parameters."""
        if isinstance(tensor, Tensor):
            if tuple(map(size_of, info.dims)) != tuple(tensor.shape):
                raise Misaligned
            self._infos[tensor] = info

    def couple(self, first: Expr, second: Expr, what: str) -> None:
        """Unify two dimensions, or freeze both where they can't be matched."""
        try:
            unify(first, second)
        except Misaligned:
            reason = Reason(f"{what} matches dimensions that have no common structure{self.where()}", unsupported=True)
            freeze(first, reason)
            freeze(second, reason)

    def freeze(self, expr: Expr, text: str, *, approximable: bool = False) -> None:
        """Note that growing this dimension would change the function."""
        freeze(expr, Reason(f"{text}{self.where()}", approximable=approximable))

    def use(self, info: Info, dim: int, *, consumed: bool, expr: Expr | None = None) -> None:
        """Note how a dimension of a parameter (or of a view of one) is used."""
        if info.parameter is None:
            return
        for source in info.sources[dim]:
            self.uses[info.parameter].append(Use(source, expr if expr is not None else info.dims[dim], consumed))

    def produces(self, info: Info, dim: int) -> None:
        """Note that a weight's dimension makes channels: the place where a volume can be widened."""
        self.use(info, dim, consumed=False)
        if info.parameter is not None:
            for source in sorted(info.sources[dim]):
                self.outputs.setdefault((info.parameter, source), self.place)

    def where(self) -> str:
        """Return `` in 'path'`` for messages."""
        return f" in {self.place!r}" if self.place else ""

    def dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Let the handler of one operation follow it."""
        name = str(func._overloadpacket).removeprefix("aten.")  # noqa: SLF001 - the only way to the name
        if any(self.depends(leaf) for leaf in tree_flatten((args, kwargs))[0]):
            for leaf in tree_flatten(result)[0]:
                if isinstance(leaf, Tensor):
                    self._real[leaf] = True
        handler = self.handlers.get(name)
        if handler is None and torch.Tag.pointwise in func.tags:
            handler = self.handlers["pointwise"]
        if handler is None:
            self._unknown(func, args, kwargs, result, "is not understood")
            return
        try:
            handler(self, func, args, kwargs, result)
        except Misaligned as problem:
            why = str(problem) or "regroups a dimension in a way that can't be followed"
            self._unknown(func, args, kwargs, result, why)

    def read(self, tensor: Tensor) -> None:
        """Note that Python reads values of a tensor: a branch may hang on them."""
        if self.info(tensor).parameter is None and self.depends(tensor):
            self.reads[_user_line().strip(" ()") or "the forward"] = None

    def called(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Freeze what a call takes out of sight: to NumPy, to Python, into a tensor that no operation has made."""
        inputs = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
        name = getattr(func, "__name__", str(func))
        unseen = [
            leaf
            for leaf in outputs
            if leaf not in self._infos
            and not any(leaf is tensor for tensor in inputs)
            and not is_functorch_wrapped_tensor(leaf)  # inside vmap: the operations run on what it wraps
        ]
        if name not in _OUT_OF_SIGHT and not unseen:
            return
        reason = Reason(f"{name} takes values out of sight{self.where()}{_user_line()}", unsupported=True)
        for tensor in inputs:
            self.read(tensor)
            for expr in self.info(tensor).dims:
                freeze(expr, reason)

    def depends(self, leaf: Any) -> bool:
        """Return whether a value depends on activations: on an input or a parameter that is no index or mask."""
        if not isinstance(leaf, Tensor):
            return False
        return leaf in self._real or (
            leaf.is_floating_point() and leaf in self._infos and self._infos[leaf].parameter is not None
        )

    def _unknown(self, func: Any, args: Any, kwargs: Any, result: Any, why: str) -> None:
        reason = Reason(f"operation {func} {why}{self.where()}{_user_line()}", unsupported=True)
        inputs = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        for tensor in inputs:
            for expr in self.info(tensor).dims:
                freeze(expr, reason)
        for leaf in tree_flatten(result)[0]:
            if isinstance(leaf, Tensor) and not any(leaf is tensor for tensor in inputs):
                self._infos[leaf] = Info([fresh(n, reason) for n in leaf.shape])


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, trace: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._trace = trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        result = func(*args, **keywords)
        self._trace.dispatch(func, args, keywords, result)
        if self._trace.observer is not None:
            self._trace.observer(func, args, keywords, result)
        return result


class _Calls(TorchFunctionMode):
    """Sees calls that run no ATen operation, such as ``x.numpy()``."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        result = func(*args, **keywords)
        self._trace.called(func, args, keywords, result)
        return result


def output_tensors(value: Any) -> list[Tensor]:
    """Return every tensor of an output, also where it is an object with fields.

    Caches of keys, values and states (``past_key_values``) don't count: they are read by the grown model
    only.
    """
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in output_tensors(item)]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in output_tensors(item)]
    if "Cache" in type(value).__name__:
        return []
    names = [name for base in type(value).__mro__ for name in _slots(base)]
    fields = [getattr(value, name) for name in names if hasattr(value, name)]
    return [leaf for item in [*fields, *getattr(value, "__dict__", {}).values()] for leaf in output_tensors(item)]


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _user_line() -> str:
    """Return the innermost line of the user's own code, for messages."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - traceback.extract_stack would read every file on the way
    while frame is not None:
        file = frame.f_code.co_filename.replace("\\", "/")
        if "/torch/" not in file and "graftwork/surgery" not in file:
            return f" ({file.rsplit('/', 1)[-1]}:{frame.f_lineno})"
        frame = frame.f_back
    return ""
