"""Whether new outputs, tokens and channels work: finite on new ids, and reached by a gradient."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from graftwork.errors import SurgeryError
from graftwork.surgery._calls import Call, first_line, sandbox
from graftwork.surgery._trace import Trace, output_tensors
from graftwork.surgery.interface._places import Place
from graftwork.surgery.layers import gradients_of

Tables = Mapping[str, Sequence[nn.Module]]
"""Name of a tensor whose rows are looked up → the embeddings that hold it."""


def refuse_unknown_ids(model: nn.Module, call: Call, tables: Tables, *, size: int, extra: int) -> tuple[Call, set[str]]:
    """Run the model on new ids, in those of the call's tensors that an embedding reads as they are.

    Args:
        model: The grown model; left as it was.
        call: A call of it.
        tables: What has new rows.
        size: Number of rows before.
        extra: New rows.

    Returns:
        The call with new ids, and the tables that read them; the call itself and none where no tensor holds ids.

    Raises:
        SurgeryError: The forward fails on them, or gives no numbers.
    """
    fed = _fed(model, call, tables)
    if not fed:
        return call, set()
    count = iter(range(10**6))

    def new(value: Any) -> Any:
        if not isinstance(value, Tensor) or next(count) not in fed:
            return value
        value = value.clone()
        some = min(extra, value.shape[-1])
        value[..., -some:] = torch.arange(size + extra - some, size + extra, device=value.device)
        return value

    arguments, keywords = tree_map(new, (list(call.arguments), call.keywords))
    unknown = replace(call, arguments=tuple(arguments), keywords=keywords)
    try:
        with sandbox(model):
            model.eval()
            outputs = [t for t in output_tensors(unknown.run(model)) if t.is_floating_point()]
    except Exception as error:
        raise SurgeryError(
            f"the grown model fails on its new ids ({first_line(error)}); everything was put back. Its "
            "code probably holds their number, or another table of as many rows: name that one too"
        ) from error
    if any(bool(output.isnan().any()) for output in outputs):
        raise SurgeryError("the grown model gives NaN for its new ids; everything was put back")
    return unknown, {name for names in fed.values() for name in names}


def _fed(model: nn.Module, call: Call, tables: Tables) -> dict[int, set[str]]:
    """Place of a tensor among the call's → the tables that look up its very values."""
    read: dict[str, list[Tensor]] = {}

    def note(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda _, inputs: read.setdefault(name, []).append(inputs[0].detach().flatten().clone())

    handles = [module.register_forward_pre_hook(note(name)) for name, held in tables.items() for module in held]
    try:
        with sandbox(model):
            model.eval()
            call.run(model)
    finally:
        for handle in handles:
            handle.remove()
    found: dict[int, set[str]] = {}
    for at, leaf in enumerate(leaf for leaf in call.leaves() if isinstance(leaf, Tensor)):
        for name, indices in read.items():
            flat = leaf.flatten()
            if leaf.dim() and not leaf.is_floating_point() and any(torch.equal(flat, one) for one in indices):
                found.setdefault(at, set()).add(name)
    return found


def refuse_asleep(
    model: nn.Module, trace: Trace, places: Sequence[Place], call: Call, *, size: int, excused: Collection[str]
) -> None:
    """Refuse new rows that would never train, behind a rectifier, say, or a gain of zero.

    Args:
        model: The grown model; left as it was.
        trace: The trace of it.
        places: What has grown.
        call: A call that uses what is new.
        size: Length before.
        excused: Tensors whose new rows this call does not use.

    Raises:
        SurgeryError: A gradient reaches a tensor's old part only.
    """
    grown = [p for p in places if isinstance(trace.tensors[p.name], nn.Parameter) and p.name not in excused]
    parameters = [trace.tensors[place.name] for place in grown]
    found = gradients_of(model, call, parameters)  # type: ignore[arg-type]
    for place, gradient in zip(grown, found or [], strict=False):
        if gradient is None:
            continue
        if place.volume is not None:
            continue
        old = bool(gradient.narrow(place.dim, 0, size).any())
        new = bool(gradient.narrow(place.dim, size, gradient.shape[place.dim] - size).any())
        if old and not new:
            raise SurgeryError(
                f"the new part of {place.name!r} would not train: no gradient reaches it, though it reaches the old "
                "one; everything was put back. Something behind it stops zeros, as a rectifier does: take init='mean'"
            )
