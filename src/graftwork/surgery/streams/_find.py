"""Which volumes of a model are residual streams."""

from collections.abc import Iterator

from graftwork.errors import SurgeryError
from graftwork.surgery._space import Var, resolve
from graftwork.surgery.streams._tape import Node, Ref, Tape

_NORMS = {"native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm", "native_group_norm", "group_norm"}
_MOMENTS = {"mean", "var", "var_mean", "linalg_vector_norm"}
_MOVED = {"alias", "clone", "detach", "_to_copy", "contiguous", "view", "_unsafe_view", "pow", "square", "permute",
          "transpose", "native_dropout", "abs", "mul", "div", "slice", "select"}  # fmt: skip
_UNDERSTOOD = ("(transposed tying)", "sum runs over", "linalg_vector_norm runs over", "mean runs over")


def streams(tape: Tape) -> list[Var]:
    """Return the volumes of channels to which branches are added and over which a norm then runs.

    Args:
        tape: A run of the model.

    Raises:
        SurgeryError: There are none; or something forbids one to grow.
    """
    sums: set[int] = set()
    found: dict[int, Var] = {}
    for node in tape.nodes:
        if node.name in ("add", "add_") and _is_sum(tape, node):
            sums |= {ref.number for ref in node.outputs}
        elif node.name in _MOVED and any(ref.number in sums for ref in node.inputs):
            sums |= {ref.number for ref in node.outputs}
        elif node.name in _NORMS | _MOMENTS and node.inputs and node.inputs[0].number in sums:
            for var in _normed(tape, node, node.inputs[0]):
                found[id(var)] = var
    if not found:
        raise SurgeryError(
            "the model has no residual stream: no norm over channels follows a sum of branches; widen its sites with "
            "Widen or WidenAll"
        )
    free = [var for var in found.values() if not _forbidden(var)]
    if not free:
        reason = next(reason for var in found.values() for reason in _forbidden(var))
        raise SurgeryError(f"the residual stream can't grow: it is {_article(reason)}")
    return free


def _article(text: str) -> str:
    return text if text.startswith(("a ", "an ", "the ")) else f"held by this: {text}"


def _forbidden(var: Var) -> list[str]:
    """What else than norms stands against it."""
    return [
        reason.text
        for reason in var.reasons
        if not reason.approximable and not any(known in reason.text for known in _UNDERSTOOD)
    ]


def _is_sum(tape: Tape, node: Node) -> bool:
    parts = [tape.facts[ref.number] for ref in node.inputs]
    return len(parts) == 2 and all(len(part.dims) > 1 and part.parameter is None for part in parts)


def _normed(tape: Tape, node: Node, ref: Ref) -> Iterator[Var]:
    """The volumes over which a norm runs, where they stand alone in a dimension."""
    dims = tape.facts[ref.number].dims
    if node.name in _NORMS:
        count = len(node.values.get("normalized_shape", ())) or 1
        over = [1] if "group" in node.name else range(len(dims) - count, len(dims))
    else:
        given = node.values.get("dim") or []
        over = [dim % len(dims) for dim in ([given] if isinstance(given, int) else given)]
    for dim in over:
        expr = resolve(dims[dim])
        if len(expr) == 1 and len(expr[0]) == 1 and _has_channels(expr[0][0]):
            yield expr[0][0]


def _has_channels(var: Var) -> bool:
    return any(reason.approximable for reason in var.reasons)
