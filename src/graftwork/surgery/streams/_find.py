"""Which volumes of a model are residual streams."""

from collections.abc import Container, Iterable, Iterator

from graftwork.errors import SurgeryError
from graftwork.surgery._space import Var, atoms, resolve
from graftwork.surgery._trace import INPUT, OUTPUT
from graftwork.surgery.streams._heads import STOCK, SUMMED
from graftwork.surgery.streams._tape import Node, Ref, Tape

_NORMS = {"native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm", "native_group_norm", "group_norm"}
_MOMENTS = {"mean", "var", "var_mean", "linalg_vector_norm"}
_LAYER_NORMS = {"native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm"}
_SHOWN = {"alias", "clone", "detach", "contiguous", "view", "_unsafe_view", "native_dropout"}
_MOVED = {
    "alias", "clone", "detach", "_to_copy", "contiguous", "view", "_unsafe_view", "pow", "square", "permute",
    "transpose", "native_dropout", "abs", "mul", "div", "slice", "select", "avg_pool2d", "_adaptive_avg_pool2d",
    "squeeze", "unsqueeze", "flatten",
}  # fmt: skip
_UNDERSTOOD = ("(transposed tying)", "sum runs over", "linalg_vector_norm runs over", "mean runs over",
               "from which one index is selected", OUTPUT)  # fmt: skip


def streams(tape: Tape) -> list[Var]:
    """Return the volumes of channels to which branches are added and over which a norm runs, of the sum or of a branch.

    Args:
        tape: A run of the model.

    Raises:
        SurgeryError: There are none; or something forbids one to grow.
    """
    sums: set[int] = set()
    found: dict[int, Var] = {}
    for node in tape.nodes:
        if (node.name in ("add", "add_") and _is_sum(tape, node)) or _passed(tape, node, sums):
            sums |= {ref.number for ref in node.outputs}
        elif node.name in _NORMS | _MOMENTS and node.inputs and node.inputs[0].number in sums:
            for var in _normed(tape, node, node.inputs[0]):
                found[id(var)] = var
    found |= {id(var): var for var in _added_normed(tape)}
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


def _added_normed(tape: Tape) -> Iterator[Var]:
    """The volumes of branches that end with a norm and are then added to something."""
    ends: dict[int, list[Var]] = {}  # what a norm has made → what it runs over
    for node in tape.nodes:
        if node.name in _LAYER_NORMS:
            ends[node.outputs[0].number] = list(_normed(tape, node, node.inputs[0]))
        elif node.name in _SHOWN and node.inputs[0].number in ends:
            ends[node.outputs[0].number] = ends[node.inputs[0].number]
        elif node.name in ("add", "add_") and _is_sum(tape, node):
            for ref in node.inputs:
                yield from ends.get(ref.number, ())


def _article(text: str) -> str:
    if text == INPUT:
        return f"{INPUT}, so that the caller makes its channels; grow the model that makes and reads them"
    return text if text.startswith(("a ", "an ", "the ")) else f"held by this: {text}"


def normed(tape: Tape) -> set[int]:
    """Return the identities of volumes over which a norm or a mean runs whose result reaches the model's outputs."""
    live = {ref.number for ref in tape.outputs}
    found: set[int] = set()
    for node in reversed(tape.nodes):
        made = {ref.number for ref in node.outputs} | {after.number for _, after in node.written}
        if not made & live:
            continue
        live |= {ref.number for ref in node.inputs} | {before.number for before, _ in node.written}
        if node.name in _NORMS | _MOMENTS and node.inputs:
            dims = tape.facts[node.inputs[0].number].dims
            found |= {id(var) for dim in _over(tape, node, node.inputs[0]) for var in atoms(dims[dim])}
    return found


def growable(var: Var, normed: Container[int]) -> bool:
    """Whether a volume may grow beside a stream and on its own: what stands against it follows, or is not used.

    Heads of `torch.nn.MultiheadAttention` follow its width, and the mean over them that it returns is used by few.
    """
    return all(
        reason.text.startswith(STOCK) or (reason.approximable and id(var) not in normed) for reason in var.reasons
    )


def follows(var: Var) -> bool:
    """Whether a volume may grow like a stream: norms run over it, products of queries and keys sum over it."""
    return all(reason.approximable or any(text in reason.text for text in (SUMMED, OUTPUT)) for reason in var.reasons)


def holds(tape: Tape, ref: Ref, volumes: Iterable[Var]) -> bool:
    """Return whether a tensor holds one of some volumes."""
    wanted = {id(var) for var in volumes}
    return any(id(var) in wanted for expr in tape.facts[ref.number].dims for var in atoms(expr))


def _forbidden(var: Var) -> list[str]:
    """What else than norms stands against it."""
    return [
        reason.text
        for reason in var.reasons
        if not reason.approximable and not any(text in reason.text for text in _UNDERSTOOD)
    ]


def _passed(tape: Tape, node: Node, sums: set[int]) -> bool:
    """Whether a sum goes on through an operation that keeps its channels apart."""
    if not any(ref.number in sums for ref in node.inputs):
        return False
    if node.name == "convolution":
        return bool(node.values["groups"] > 1)
    return node.name in _MOVED or (node.name == "mean" and not list(_normed(tape, node, node.inputs[0])))


def _is_sum(tape: Tape, node: Node) -> bool:
    parts = [tape.facts[ref.number] for ref in node.inputs]
    return len(parts) == 2 and all(len(part.dims) > 1 and part.parameter is None for part in parts)


def _normed(tape: Tape, node: Node, ref: Ref) -> Iterator[Var]:
    """The volumes over which a norm runs, where they stand alone in a dimension."""
    for dim in _over(tape, node, ref):
        expr = resolve(tape.facts[ref.number].dims[dim])
        if len(expr) == 1 and len(expr[0]) == 1 and _has_channels(expr[0][0]):
            yield expr[0][0]


def _over(tape: Tape, node: Node, ref: Ref) -> Iterable[int]:
    """The dimensions that a norm or a mean runs over."""
    count = len(tape.facts[ref.number].dims)
    if node.name in _NORMS:
        last = len(node.values.get("normalized_shape", ())) or 1
        return [1] if "group" in node.name else range(count - last, count)
    given = node.values.get("dim") or []
    return [dim % count for dim in ([given] if isinstance(given, int) else given)]


def _has_channels(var: Var) -> bool:
    return any(reason.approximable for reason in var.reasons)
