"""The register of operations, and what their handlers share."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from graftwork.errors import SurgeryError, did_you_mean
from graftwork.surgery._space import ONE, fresh
from graftwork.surgery._trace import Handler, Info, Trace


class Register(dict[str, Handler]):
    """Name of an operation, without overload (and without ``aten``) → handler."""

    def handles(self, *names: str) -> Callable[[Handler], Handler]:
        """Register a function for operations by name."""

        def register(handler: Handler) -> Handler:
            for name in names:
                self[name] = handler
            return handler

        return register


OPERATIONS = Register()
"""Every operation that is understood."""


def register_operation(name: str, handler: Handler | None = None, *, like: str | None = None) -> None:
    """Teach surgery what an operation does to channels; exactly one of ``handler`` and ``like`` is given.

    Args:
        name: Name of the operation with its namespace, without overload: ``"mylib::sq"``. One that is registered
            already is replaced.
        handler: Function of the trace, the operation, its arguments, its keyword arguments and its result that says
            what the dimensions of the result are made of: ``trace.put(result, Info(dims))``. The families of operations
            in ``graftwork/surgery/operations`` are examples.
        like: Name of a known operation that takes the same arguments and treats channels alike. ``"pointwise"`` stands
            for all that act on each number alone.

    Raises:
        SurgeryError: The name has no namespace, both or none of ``handler`` and ``like`` are given, or ``like`` is not
            known.

    Example:
        >>> register_operation("mylib::sq", like="pointwise")
    """
    namespace, separator, base = name.partition("::")
    if not (namespace and separator and base):
        raise SurgeryError(f'name: expected a namespace and a name such as "mylib::sq", got {name!r}')
    if (handler is None) == (like is None):
        raise SurgeryError(
            f"{name}: expected exactly one of handler and like, got {'none' if like is None else 'both'}"
        )
    if like is not None:
        known = like.removeprefix("aten::").replace("::", ".")
        if known not in OPERATIONS:
            raise SurgeryError(f"like: expected a known operation, got {like!r}{did_you_mean(known, OPERATIONS)}")
        handler = OPERATIONS[known]
    assert handler is not None
    OPERATIONS[base if namespace == "aten" else f"{namespace}.{base}"] = handler


def bind(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of an ATen call by name, defaults included."""
    values: dict[str, Any] = {}
    for position, argument in enumerate(func._schema.arguments):  # noqa: SLF001 - the only way to the names
        if position < len(args):
            values[argument.name] = args[position]
        elif argument.name in kwargs:
            values[argument.name] = kwargs[argument.name]
        else:
            values[argument.name] = argument.default_value
    return values


def op_name(func: Any) -> str:
    """Return the name of an ATen operation without namespace and overload."""
    return str(func._overloadpacket.__name__)  # noqa: SLF001 - the only way to the name


def wrap(dim: int, ndim: int) -> int:
    """Return a dimension counted from the front."""
    return dim + ndim if dim < 0 else dim


def dim_list(dims: Any, ndim: int) -> list[int]:
    """Return dimensions from an int, a list or None (all of them), counted from the front."""
    if dims is None or dims == []:
        return list(range(ndim))
    if isinstance(dims, int):
        dims = [dims]
    return [wrap(dim, ndim) for dim in dims]


def broadcast(trace: Trace, tensors: list[Tensor], shape: tuple[int, ...], what: str) -> Info:
    """Unify the dimensions of operands that meet element by element; returns what the result is.

    Args:
        trace: The trace.
        tensors: Operands.
        shape: Shape of the result.
        what: Name of the operation, for messages.

    Returns:
        The result's dimensions; ``computed`` where every operand with more than one number derives from
        parameters.
    """
    infos = [trace.info(tensor) for tensor in tensors]
    dims = [ONE] * len(shape)
    for position, size in enumerate(shape):
        if size == 1:
            continue
        for tensor, info in zip(tensors, infos, strict=True):
            own = position - (len(shape) - tensor.dim())
            if own < 0 or tensor.shape[own] != size:
                continue
            trace.use(info, own, consumed=False)
            if dims[position] is ONE:
                dims[position] = info.dims[own]
            else:
                trace.couple(dims[position], info.dims[own], what)
        if dims[position] is ONE:
            dims[position] = fresh(size)
    derived = [i.computed or i.parameter is not None for i, t in zip(infos, tensors, strict=True) if t.numel() > 1]
    return Info(dims, computed=bool(derived) and all(derived))
