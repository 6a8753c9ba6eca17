"""Which parameters make a residual branch add nothing: found by walking back from the sum through the record.

What an operation does to zeros is tried, not listed: it runs again with zeros for one operand, and where all that
comes out is zero, that operand is the way on. The walk ends at the last projection before the sum; where a norm stands
between the two, at the norm's gain (zeros in front of a norm would magnify gradients by 1/√ε).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from graftwork.surgery.layers._record import Node

_ZEROS = {"zeros", "zeros_like", "new_zeros", "zero_", "fill_", "full", "full_like", "new_full"}
_NORM_STEPS = {"rsqrt", "sqrt", "pow", "reciprocal", "div", "add", "mul", "clamp", "clamp_min", "maximum", "square",
               "_to_copy", "expand", "view", "unsqueeze", "clone", "abs"}  # fmt: skip
_SUMS = {"mean", "sum", "var", "std", "var_mean", "linalg_vector_norm", "norm", "amax"}


class CanNotBeZeroError(Exception):
    """No parameters make a tensor zero; the message says at what the search ended."""


@dataclass
class Silence:
    """What makes a tensor zero.

    Attributes:
        values: Parameter → the number that all of it becomes (0; −1 where a gain is stored as 1 + w).
        normed: Whether a norm without a gain stands behind the zeros.
        gains: Those of the parameters that are the gain or bias of a norm.
    """

    values: dict[str, float] = field(default_factory=dict)
    normed: bool = False
    gains: frozenset[str] = frozenset()

    def __or__(self, other: "Silence") -> "Silence":
        return Silence(self.values | other.values, self.normed or other.normed, self.gains | other.gains)


def silence(node: Node) -> Silence:
    """Return what makes a tensor of an entry's record zero, whatever the entry's input is.

    Raises:
        CanNotBeZeroError: Nothing does.
    """
    return _Walk().to(node)


class _Walk:
    def __init__(self) -> None:
        self._known: dict[int, Silence | CanNotBeZeroError] = {}

    def to(self, node: Node) -> Silence:
        if id(node) not in self._known:
            try:
                self._known[id(node)] = self._step(node)
            except CanNotBeZeroError as error:
                self._known[id(node)] = error
        found = self._known[id(node)]
        if isinstance(found, CanNotBeZeroError):
            raise found
        return found

    def _step(self, node: Node) -> Silence:
        if node.fixed:
            return Silence(_fixed_zero(node))
        if node.op in _ZEROS and not bool(node.value.any()):
            return Silence()
        if not node.op:
            raise CanNotBeZeroError("the branch takes a part of the entry's input along unchanged")
        if node.func is None:
            return self._all(node.operands)
        if node.is_norm:
            return self._norm(node)
        operands = [o for o in node.operands if o.value.is_floating_point() or o.value.is_complex()]
        if node.op in {"mul", "mul_", "div", "div_"} and len(operands) == 2:
            return self._product(node, operands)
        return self._by_trial(node, operands)

    def _all(self, operands: list[Node]) -> Silence:
        found = Silence()
        for operand in operands:
            if operand.value.is_floating_point():
                found |= self.to(operand)
        return found

    def _norm(self, node: Node) -> Silence:
        """The norm's gain and bias; through it where it has none."""
        values: dict[str, float] = {}
        for operand in node.operands[1:]:
            if operand.fixed and operand.value.is_floating_point() and _trained(operand):
                values |= _fixed_zero(operand)
        if values:
            return Silence(values, gains=frozenset(values))
        return self.to(node.operands[0]) | Silence(normed=True)

    def _product(self, node: Node, operands: list[Node]) -> Silence:
        """A gain, a gate, or a norm that is written out."""
        for one, other in (operands, operands[::-1]):
            if node.op.startswith("div") and one is not operands[0]:
                break  # a zero divisor is no zero
            if one.fixed and not other.fixed:
                try:
                    inner = self.to(other)
                    if not inner.normed:
                        return inner
                except CanNotBeZeroError:
                    pass
                values = _fixed_zero(one)
                return Silence(values, gains=frozenset(values))
            if _is_scale_of(other, one):
                return self.to(one) | Silence(normed=True)
        return self._by_trial(node, operands)

    def _by_trial(self, node: Node, operands: list[Node]) -> Silence:
        """The first operand that makes the result zero: weights of a projection first; else all of them together."""
        problem = CanNotBeZeroError(f"{node.op} makes no zeros of zeros")
        for operand in sorted(operands, key=_preference):
            if not _makes_zero(node, [operand]):
                continue
            if not _passes_gradient(node, operand):
                problem = CanNotBeZeroError(f"it ends in {node.op}, through which zeros get no gradient")
                continue
            try:
                found = self.to(operand)
            except CanNotBeZeroError as error:
                problem = error
                continue
            return found
        fixed = [operand for operand in operands if operand.fixed]
        for together in (fixed, operands):  # a weight and its bias; the terms of a sum
            if len(together) > 1 and _makes_zero(node, together):
                return self._all(together)
        raise problem


def _preference(operand: Node) -> int:
    if operand.fixed:
        return 0 if operand.value.dim() >= 2 else 2
    return 1


def _trained(node: Node) -> bool:
    """Whether a fixed tensor comes from a parameter rather than from statistics."""
    if node.parameter is not None:
        return isinstance(node.value, torch.nn.Parameter)
    return any(_trained(operand) for operand in node.operands)


def _makes_zero(node: Node, operands: list[Node]) -> bool:
    try:
        result = node.again({id(operand): torch.zeros_like(operand.value) for operand in operands})
    except Exception:  # whatever an operation raises on other values
        return False
    first = result[0] if isinstance(result, (tuple, list)) and result else result
    return isinstance(first, Tensor) and not bool(first.ne(0).any())  # NaN is not zero either


def _passes_gradient(node: Node, operand: Node) -> bool:
    """Whether zeros in place of an operand would get a gradient; a rectifier gives none at zero."""
    if not operand.value.is_floating_point():
        return True
    zeros = torch.zeros_like(operand.value).requires_grad_()
    try:
        with torch.enable_grad():
            result = node.again({id(operand): zeros})
            first = result[0] if isinstance(result, (tuple, list)) else result
            (gradient,) = torch.autograd.grad(first.sum(), zeros, allow_unused=True)
    except Exception:  # an operation without a derivative: the check of all gradients will tell
        return True
    return gradient is not None and bool(gradient.any())


def _is_scale_of(scale: Node, of: Node) -> bool:
    """Whether a tensor is made from another by the steps of a norm: a mean over it, its root, its inverse."""
    summed, inverted = False, False
    waiting, seen = [scale], set()
    base = _source(of)
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not node.value.is_floating_point():
            continue
        seen.add(id(node))
        if node is of or _source(node) is base:
            continue
        name = node.op.rstrip("_")
        summed |= name in _SUMS
        inverted |= name in {"rsqrt", "reciprocal", "div"} or (name == "pow" and float(node.args[1]) < 0)
        if name not in _SUMS | _NORM_STEPS and not node.fixed:
            return False
        waiting += [operand for operand in node.operands if not operand.fixed]
    return summed and (inverted or scale.op.rstrip("_") in _NORM_STEPS | _SUMS)


def _source(node: Node) -> Node:
    """The tensor that a node is a mere copy of (another dtype, another shape)."""
    while node.op in {"_to_copy", "view", "clone", "_unsafe_view", "alias", "detach"} and node.operands:
        node = node.operands[0]
    return node


def _fixed_zero(node: Node, wanted: float = 0.0) -> dict[str, float]:
    """The values of parameters for which something made of them alone is zero (or another number).

    Raises:
        CanNotBeZeroError: Nothing that is trained stands behind it, or it is no simple function of it.
    """
    if node.parameter is not None:
        if not isinstance(node.value, torch.nn.Parameter):
            raise CanNotBeZeroError(f"{node.parameter!r} is a buffer")
        return {node.parameter: wanted}
    operands = [o for o in node.operands if o.value.is_floating_point()]
    offset = next((arg for arg in node.args if isinstance(arg, (int, float))), None)
    if node.op in {"add", "add_"} and len(operands) == 1 and offset is not None:  # a gain stored as 1 + w
        return _fixed_zero(operands[0], wanted - float(offset))
    if len(operands) == 1 and (wanted == 0.0 or _source(node) is not node):
        if wanted or _makes_zero(node, operands):
            return _fixed_zero(operands[0], wanted)
    elif wanted == 0.0 and len(operands) > 1:
        for operand in sorted(operands, key=lambda o: o.value.numel()):  # weight norm: the gain, not the direction
            if _makes_zero(node, [operand]):
                return _fixed_zero(operand)
        if _makes_zero(node, operands):
            return {name: value for operand in operands for name, value in _fixed_zero(operand).items()}
    raise CanNotBeZeroError(f"{node.op or 'a constant'} of parameters can't be made zero")
