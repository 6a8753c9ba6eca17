"""Read the pickles of CIFAR-10 without executing any.

A pickle is a program that may import and call anything. The unpickler here knows five names, and replaces each by a
stand-in that only keeps what it is called with; no function of numpy or of another module can be reached.
"""

import io
import math
import pickle
import pickletools
from typing import Any, cast

import numpy as np
import numpy.typing as npt

_MAX_BYTES, _MAX_STEPS = 2**29, 10**6  # a batch of CIFAR-100 has 155 MB and 250,000 steps


class UnsafePickleError(Exception):
    """A pickle that asks for more than CIFAR-10 needs; nothing of it was executed."""


class _StandIn:
    """Keeps its arguments and state, and does nothing with them."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_StandIn):
    """Stand-in for ``numpy.core.multiarray._reconstruct``."""


class _Dtype(_StandIn):
    """Stand-in for ``numpy.dtype``."""


class _NdArray(_StandIn):
    """Stand-in for the class ``numpy.ndarray``, which such pickles pass to ``_reconstruct``."""


class _Latin1(_StandIn):
    """Stand-in for ``_codecs.encode``: bytes, as Python 3 writes them in old protocols."""


_ADMITTED: dict[tuple[str, str], type[_StandIn]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _NdArray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Latin1,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return the stand-in of an admitted name; any other name ends the reading."""
        try:
            return _ADMITTED[module_name, global_name]
        except KeyError:
            raise UnsafePickleError(
                f"it asks for {module_name}.{global_name}, which a CIFAR-10 batch does not need; nothing was executed"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        """Refuse persistent objects."""
        raise UnsafePickleError(f"it asks for the persistent object {pid!r}; nothing was executed")


def read_arrays(data: bytes) -> dict[str, Any]:
    """Read one pickled dictionary of a CIFAR-10 batch.

    Args:
        data: Content of the file.

    Returns:
        The dictionary, its keys as text and its arrays as uint8 arrays; everything else as it is.

    Raises:
        UnsafePickleError: If the pickle asks for anything that such a file does not need.
        ValueError: If it is truncated, damaged, or holds something else.
    """
    try:
        _check_steps(data)
        found = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except UnsafePickleError:
        raise
    except MemoryError as error:
        raise ValueError("it claims to be larger than memory") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"damaged or truncated: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"expected a dictionary, found a {type(found).__name__}")  # noqa: TRY004 - it is the file's fault
    return {_text(key): _value(value) for key, value in found.items()}


def _check_steps(data: bytes) -> None:
    """Refuse a pickle whose reading takes more time or memory than its size suggests.

    A slot of the memo far beyond the steps is memory for all slots before it; a tuple that is used again and again in
    others takes exponential time where it is hashed.
    """
    if len(data) > _MAX_BYTES:
        raise UnsafePickleError(f"it has {len(data):,} bytes, more than any CIFAR batch; nothing was executed")
    slots, tuples, before = set[int](), set[int](), ""
    for steps, (code, value, _) in enumerate(pickletools.genops(data)):
        slot = len(slots) if code.name == "MEMOIZE" else value if isinstance(value, int) else -1
        puts = code.name == "MEMOIZE" or "PUT" in code.name
        again = "GET" in code.name and slot in tuples
        if steps > _MAX_STEPS or (puts and slot > _MAX_STEPS) or again or code.name == "DUP":
            raise UnsafePickleError("it takes more steps than a CIFAR batch does; nothing was executed")
        if puts:
            slots.add(slot)
            if "TUPLE" in before:
                tuples.add(slot)
        before = code.name


def _text(value: Any) -> str:
    value = _value(value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _value(value: Any) -> Any:
    if isinstance(value, _Latin1):
        text, *encoding = value.args
        if not isinstance(text, str) or encoding not in ([], ["latin1"], [b"latin1"]):
            raise ValueError("bytes in an unexpected encoding")
        return text.encode("latin1")
    if isinstance(value, _Array):
        return _array(value)
    if not isinstance(value, list):
        return value
    if any(isinstance(item, list) for item in value):
        raise ValueError("a list of lists, where there are numbers or names")
    return [_value(item) for item in value]


def _array(stub: _Array) -> npt.NDArray[np.uint8]:
    try:
        _, shape, dtype, fortran, data = stub.state
        kind, data = _text(dtype.args[0]), _value(data)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError("a damaged array") from error
    whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if kind != "u1" or not isinstance(data, bytes) or not whole or len(data) != math.prod(shape):
        raise ValueError(f"expected an array of bytes, found dtype {kind!r} and shape {shape!r}")
    return cast("npt.NDArray[np.uint8]", np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C"))
