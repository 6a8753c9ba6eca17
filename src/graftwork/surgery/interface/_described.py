"""What a model would be if it were built with more outputs or inputs: an oracle for what shares their number.

A Hugging Face model is built from its config alone. So the number in it is looked for by building (on the meta device,
without weights), and every tensor that is longer in the result grows along: the embedding beside an untied head, a
second head, a bias that stands elsewhere. What its modules hold, ``num_labels``, ``vocab_size``, is what the grown
model's modules get.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._adapters import adapter_weights, path_beside_adapters, refuse_outside, without_adapters
from graftwork.surgery._attributes import AttributeChange
from graftwork.surgery.layers import built_from, config_entries, followed, owner_of, shapes_of

_LIKELY = re.compile(r"vocab|label|class|channel|token|mel|feature|input", re.IGNORECASE)
_MOST_BUILDS = 12


@dataclass(frozen=True)
class Description:
    """How a config follows, and what it builds.

    Attributes:
        owner: Path of the module that is built from the config.
        dims: Parameter or buffer → its dimension that gets longer.
        configs: Numbers of configs that change.
        attributes: Numbers of modules that change.
    """

    owner: str
    dims: dict[str, int]
    configs: tuple[AttributeChange, ...]
    attributes: tuple[AttributeChange, ...]


def describe(model: nn.Module, wanted: Mapping[str, int], size: int, extra: int) -> Description | str | None:
    """Find how the config follows.

    Args:
        model: The model, before the growth.
        wanted: Parameter or buffer → its dimension that gets longer.
        size: Its length before.
        extra: New units.

    Returns:
        The description; a note where the config does not describe the model as it is; None where there is none.

    Raises:
        SurgeryError: The config describes the model, and no number of it the grown one.
    """
    owners = {owner_of(model, name.rpartition(".")[0]) for name in wanted}
    if owners == {None}:
        return None
    if len(owners) > 1 or None in owners:
        raise SurgeryError(f"{list(wanted)} can't grow together: they belong to several configs; grow one by one")
    owner = owners.pop()
    assert owner is not None
    whole: Any = without_adapters(model.get_submodule(owner))
    config = whole.config
    names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    live, adapters = whole.state_dict(keep_vars=True), adapter_weights(model)
    before = built_from(type(whole), config, {})
    if before is None or shapes_of(before) != shapes_of(whole):
        return f"{f'{owner}.config'.lstrip('.')} does not build this model as it is, and is left alone"
    for values in itertools.islice(_guesses(config, size, size + extra), _MOST_BUILDS):
        after = built_from(type(whole), config, values)
        dims = None if after is None else _longer(shapes_of(before), shapes_of(after), size, extra)
        if after is None or dims is None:
            continue
        found = {names[id(live[name])]: dim for name, dim in dims.items() if id(live[name]) in names}
        if all(found.get(name) == dim for name, dim in wanted.items() if name not in adapters):
            _refuse_unsaved(before, after)
            for name in found:
                refuse_outside(model, wanted, name, size)
            configs, numbers = followed(owner, whole, values, before, after)
            there = tuple(replace(change, path=path_beside_adapters(model, change.path)) for change in numbers)
            return Description(owner, found, configs, there)
    raise SurgeryError(
        f"{next(iter(wanted))!r} can't get new ones: {f'{owner}.config'.lstrip('.')} describes the model as it is, and "
        f"no number of it one with {size + extra} instead of {size} there"
    )


def _guesses(config: Any, size: int, grown: int) -> Iterator[dict[str, Any]]:
    entries = list(config_entries(config))
    held = [name for name, value in entries if type(value) is int and value == size]
    held.sort(key=lambda name: not _LIKELY.search(name))
    labels = [name for name, value in entries if name.endswith("id2label") and isinstance(value, dict)]
    for name in labels:
        known = dict(entries)[name]
        if len(known) == size == 1:
            raise SurgeryError(f"{name}: expected classes, got one output, which such models train as a regression")
        if len(known) == size:
            yield _labels(name, known, dict(entries).get(name.replace("id2label", "label2id")), grown)
    for count in (1, 2):
        for some in itertools.combinations(held, count):
            yield dict.fromkeys(some, grown)


def _labels(name: str, known: Mapping[int, str], ids: Mapping[str, int] | None, grown: int) -> dict[str, Any]:
    """The names of classes: those that are there, and new ones as the config would call them."""
    named = {int(key): value for key, value in known.items()}
    ids = dict(ids or {value: key for key, value in named.items()})
    taken = {*named.values(), *ids}
    for index in range(len(known), grown):
        label = f"LABEL_{index}"
        named[index] = label if label not in taken else f"NEW_{label}"
        ids[named[index]] = index
    return {name: named, name.replace("id2label", "label2id"): ids}


def _longer(before: Mapping[str, Any], after: Mapping[str, Any], size: int, extra: int) -> dict[str, int] | None:
    """Tensor → dimension that is longer; None where they differ otherwise."""
    if before.keys() != after.keys():
        return None
    dims: dict[str, int] = {}
    for name, old in before.items():
        new = after[name]
        if old == new:
            continue
        changed = [dim for dim, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]]
        if len(old) != len(new) or len(changed) != 1 or (old[changed[0]], new[changed[0]]) != (size, size + extra):
            return None
        dims[name] = changed[0]
    return dims


def _refuse_unsaved(before: nn.Module, after: nn.Module) -> None:
    """Refuse a growth after which a buffer that no file holds would have to be longer, with values nobody knows."""
    old = {name: tuple(buffer.shape) for name, buffer in before.named_buffers()}
    saved = before.state_dict().keys()
    for name, buffer in after.named_buffers():
        if name not in saved and old.get(name) != tuple(buffer.shape):
            raise SurgeryError(
                f"{name!r} would have to be {tuple(buffer.shape)}, as the config builds it, and what it would hold is "
                "not known; change the config and load the weights into a model of it"
            )
