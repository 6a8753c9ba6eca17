"""Which entry each new layer copies, how it starts, and which numbers follow."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._adapters import path_beside_adapters, without_adapters
from graftwork.surgery._attributes import AttributeChange
from graftwork.surgery._calls import Call
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._space import Var
from graftwork.surgery.layers._branches import Branches, branches_of
from graftwork.surgery.layers._copying import shared_tensors, siblings
from graftwork.surgery.layers._numbers import count_changes, place_numbers
from graftwork.surgery.layers._reference import find_reference, owner_of
from graftwork.surgery.layers._silence import Silence
from graftwork.surgery.layers._stack import Stack
from graftwork.surgery.layers._twins import make_twins, twin_volumes

INITS = ("zero-out", "r2r", "copy")
TRAINS = ("all", "new")


@dataclass(frozen=True)
class Origins:
    """Where new layers come from.

    Attributes:
        sources: Old position of the entry that each new one copies.
        starts: For each new one, what makes its copy start as it shall.
        details: The same in words.
        attributes: Numbers of modules that change, by paths after the growth.
        configs: Numbers of configs that change.
        approximations: Why the growth is not exact; empty where it is.
        notes: What a reader should know.
    """

    sources: tuple[int, ...]
    starts: tuple[Callable[[nn.Module], None], ...]
    details: tuple[str, ...]
    attributes: tuple[AttributeChange, ...]
    configs: tuple[AttributeChange, ...]
    approximations: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def origins(
    graph: ChannelGraph, stack: Stack, call: Call, *, init: str, approximate: bool, like: int | None = None
) -> Origins:
    """Decide which entries are copied, how the copies start, and which numbers follow.

    Args:
        graph: Channel graph of the model.
        stack: What grows, and where.
        call: The example.
        init: One of `INITS`.
        approximate: Whether layers that can't start as the identity are allowed.
        like: Old position of the entry that all copy. None takes for each the one before it, or a near one.

    Raises:
        SurgeryError: No entry can be copied, or a number can't follow.
    """
    model = graph.model
    branches = branches_of(model, stack.module, call)
    usable = [_usable(stack, branches, place, init=init, approximate=approximate, like=like) for place in stack.places]
    owner = owner_of(model, stack.path)
    plain = without_adapters(model)
    reference = None if owner is None else find_reference(plain, owner, stack.on(plain), usable)
    notes: tuple[str, ...] = ()
    if reference is not None:
        sources, configs = reference.sources, reference.configs
        attributes = tuple(replace(c, path=path_beside_adapters(model, c.path)) for c in reference.attributes)
    else:
        sources = tuple(choice[0] for choice in usable)
        own, held = count_changes(model, stack, sources)
        attributes, configs = (*place_numbers(model, stack, sources, call), *own), tuple(held)
        if owner is not None:
            notes = (
                f"{owner}.config".lstrip(".") + " does not build this model: rebuild it with graftwork.load_model",
            )
    begun = [_start(graph, stack, source, branches[source], init) for source in sources]
    inexact = dict.fromkeys(text for source in sources for text in _inexact(stack, source, branches[source], init))
    return Origins(
        sources=sources,
        starts=tuple(start for start, _ in begun),
        details=tuple(text for _, text in begun),
        attributes=tuple(attributes),
        configs=configs,
        approximations=tuple(inexact),
        notes=notes,
    )


def _usable(
    stack: Stack,
    branches: Sequence[Branches | None],
    place: int,
    *,
    init: str,
    approximate: bool,
    like: int | None,
) -> tuple[int, ...]:
    """Old entries that a new one may copy: the one before it, then the nearest; or one alone.

    Raises:
        SurgeryError: There is none.
    """
    here = branches[place]
    if here is None:
        why = "the example input does not run that entry; pass a batch that does"
        if isinstance(stack.own[place][1], (nn.ModuleList, nn.ModuleDict)):
            why = "that entry has no forward of its own; Deepen grafts blocks behind its parts"
        raise SurgeryError(f"{stack.path!r} can't get new entries after {place}: {why}")
    nearest = sorted(range(stack.length), key=lambda i: (abs(i - place), i < place))
    found = []
    for position in nearest if like is None else [like]:
        there = branches[position]
        if there is None or there.shape is None or there.shape != here.out or there.out != there.shape:
            continue
        if init == "copy" or there.exact or (approximate and there.silence is not None):
            found.append(position)
    if found:
        return tuple(found)
    if like is not None:
        there = branches[like]
        why = "as the example does not run it" if there is None else f"as {there.problem or 'it has other shapes'}"
        raise SurgeryError(
            f"like={stack.at(stack.own[like][0])!r} can't become a new layer after {stack.at(stack.own[place][0])!r}: "
            f"it can't start as the identity there, {why}; pick a residual block, or deepen without like"
        )
    raise SurgeryError(_refusal(stack, branches, place, approximate))


def _refusal(stack: Stack, branches: Sequence[Branches | None], place: int, approximate: bool) -> str:
    here = branches[place]
    assert here is not None
    possible = [i for i, one in enumerate(branches) if one is not None and one.exact]
    if here.norms and not approximate:
        advice = "approximate=True inserts copies all the same and states how much the outputs change"
    elif possible:
        advice = f"pick other places: after={possible[:6]}"
    elif here.shape == here.out:
        advice = "init='copy' with approximate=True inserts plain copies and states how much the outputs change"
    else:
        advice = "pick a stack whose entries keep the shape of their input"
    return (
        f"{stack.path!r} can't get new entries after {place}: no layer there can start as the identity, as "
        f"{here.problem}; {advice}"
    )


def _inexact(stack: Stack, source: int, branches: Branches | None, init: str) -> Iterator[str]:
    if init == "copy":
        yield f"copies of entries of {stack.path!r} act at once"
    elif branches is not None and branches.norms:
        yield f"the norm of {branches.norms[0]!r} stands after the residual sum and runs once more"


def _start(
    graph: ChannelGraph, stack: Stack, source: int, branches: Branches | None, init: str
) -> tuple[Callable[[nn.Module], None], str]:
    """What makes a copy of an entry start as it shall, and the same in words."""
    if init == "copy" or branches is None or branches.silence is None:
        return _nothing, ""
    entry = stack.at(stack.own[source][0])
    silence = branches.silence
    _refuse_shared(graph.model, stack.entries[source], entry, silence)
    twins: dict[str, list[Var]] = {}
    if init == "r2r":
        twins = {name: twin_volumes(graph, entry, name) for name in silence.values if name not in silence.gains}
    paired = [name for name, volumes in twins.items() if volumes]
    volumes = {id(volume): volume for name in paired for volume in twins[name]}.values()
    values = _values(stack.entries[source], entry, silence, paired)

    def start(layer: nn.Module) -> None:
        own = dict(layer.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, value in values.items():
                own[name].fill_(value)
        for volume in volumes:
            make_twins(graph, entry, layer, volume)

    silent = f", zero: {', '.join(values)}" if set(values.values()) <= {0.0} else f", silent: {', '.join(values)}"
    ends = f", twins before {', '.join(n.removeprefix(f'{entry}.') for n in paired)}" if paired else ""
    return start, ends + (silent if values else "")


def _nothing(_layer: nn.Module) -> None:
    return


def _values(entry: nn.Module, path: str, silence: Silence, paired: Sequence[str]) -> dict[str, float]:
    """Values by the names of the copy, those of experts that the example did not reach too."""
    found: dict[str, float] = {}
    for name, value in silence.values.items():
        if name in paired:
            continue
        for like in siblings(entry, {name.removeprefix(f"{path}.")}):
            found[like] = value
    return dict(sorted(found.items(), key=partial(_order, list(dict(entry.named_parameters())))))


def _order(names: list[str], item: tuple[str, float]) -> int:
    return names.index(item[0]) if item[0] in names else len(names)


def _refuse_shared(model: nn.Module, entry: nn.Module, path: str, silence: Silence) -> None:
    shared = shared_tensors(model, entry)
    for name in silence.values:
        leaf = name.removeprefix(f"{path}.")
        if leaf in shared or not name.startswith(f"{path}."):
            raise SurgeryError(
                f"{path!r} can't be copied so that it starts as the identity: {name!r} ends a residual branch and is "
                "used elsewhere, too; take init='copy' with approximate=True, or untie it"
            )
