"""What every ATen operation does to index spaces: one family of operations a file, in one register.

A handler looks at the operands of one operation of the trace and says what the dimensions of the result are made of. An
operation without a handler freezes what it touches, and the error names it. `register_operation` adds one from outside.
"""

from graftwork.surgery._trace import Info, Trace
from graftwork.surgery.operations import _channelwise, _indexing, _products, _reparametrized, _views  # noqa: F401
from graftwork.surgery.operations._registry import OPERATIONS, bind, broadcast, register_operation

__all__ = ["OPERATIONS", "Info", "Trace", "bind", "broadcast", "register_operation"]
