"""The ``config`` that a Hugging Face model is built from: which of its numbers a growth changes."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from graftwork.surgery._adapters import without_adapters
from graftwork.surgery._attributes import AttributeChange, is_size
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.layers import (
    built_from,
    config_entries,
    config_value,
    followed,
    is_built_from_config,
    replace_configs,
    set_numbers,
)

Shapes = Mapping[str, tuple[int, ...]]
_DERIVED = ("n_inner", "ffn_dim", "intermediate_size", "d_inner")
"""Numbers that may be None: the model then takes a multiple of its width."""
_HEAD_WIDTHS = ("d_kv",)
_LIKELY = re.compile(r"size|dim|width|head|inner|ratio|ffn|ff$|channel|expert|embd")
_SHARED = re.compile(r"(^|_)n(um)?_shared_experts?$")
_MOST_BUILDS = 12  # of each kind; each makes a whole model, if an empty one
_REBUILD = "it no longer builds this model; rebuild it with graftwork.load_model"


def config_changes(
    model: nn.Module, shapes: Shapes, lengths: Mapping[int, Sequence[int]], counts: Mapping[int, int]
) -> tuple[list[AttributeChange], list[AttributeChange], list[str]]:
    """Find the numbers of a config with which it builds the model as it will be.

    A number is changed only if a model that is built from the changed config, on the meta device, has exactly the
    shapes of the grown one: so every layer that shares the number has grown alike.

    Args:
        model: The model, before the growth.
        shapes: Name of every parameter, aliases too → shape after the growth.
        lengths: Lengths of dimensions before → after; the likeliest first.
        counts: Numbers of units in a dimension, such as heads, before → after.

    Returns:
        The changes (paths end in ``config``); sizes that modules of the model so built hold otherwise, such as how many
        heads share one of keys; and a note for each config that can't describe the grown model.
    """
    changes: list[AttributeChange] = []
    sizes: list[AttributeChange] = []
    notes: list[str] = []
    grown = {id(parameter): shapes[name] for name, parameter in model.named_parameters(remove_duplicate=False)}
    for path, module in owners(model):
        prefix = f"{path}." if path else ""
        parameters = dict(without_adapters(module).named_parameters(remove_duplicate=False))
        wanted = {name: grown[id(parameter)] for name, parameter in parameters.items()}
        now = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        if now == wanted:
            continue
        candidates = sorted(_candidates(module.config, lengths, counts), key=lambda one: not _LIKELY.search(one[0]))
        found = _search(type(module), module.config, now, wanted, candidates)
        if found is None:
            notes.append(f"{prefix}config is left as it was: {_REBUILD}")
        else:
            configs, numbers = _followed(path, module, found)
            changes += configs
            sizes += [change for change in numbers if is_size(change.new)]
    return changes, sizes, notes


def _followed(
    path: str, module: nn.Module, values: dict[str, Any]
) -> tuple[Sequence[AttributeChange], Sequence[AttributeChange]]:
    kind, config = type(module), module.config
    before, after = built_from(kind, config, {}), built_from(kind, config, values)
    if before is None or after is None:
        changes = [
            AttributeChange(f"{path}.config".lstrip("."), n, config_value(config, n), v) for n, v in values.items()
        ]
        return changes, []
    return followed(path, module, values, before, after)


def config_notes(model: nn.Module, after: str) -> list[str]:
    """Return a note for the config of a model that gets a block behind one of its modules."""
    inside = [path for path, _ in owners(model) if not path or f"{after}.".startswith(f"{path}.")]
    return [f"{path}.config knows nothing of the new block: {_REBUILD}".lstrip(".") for path in inside]


def set_values(transaction: Transaction, model: nn.Module, changes: Sequence[AttributeChange]) -> None:
    """Give modules and configs new numbers.

    Args:
        transaction: The growth.
        model: The model, or a copy of it; changed in place.
        changes: What has changed: numbers of modules and of configs.
    """
    modules = dict(model.named_modules())
    set_numbers(transaction, model, [change for change in changes if change.path in modules])
    replace_configs(transaction, model, [change for change in changes if change.path not in modules])


def owners(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield path and module of the outermost modules that are built from a config alone."""
    above: list[str] = []
    for path, module in model.named_modules():
        if any(not outer or f"{path}.".startswith(f"{outer}.") for outer in above):
            continue
        if is_built_from_config(module):
            above.append(path)
            yield path, module


def _search(
    kind: type[nn.Module], config: Any, now: Shapes, wanted: Shapes, candidates: list[tuple[str, Any]]
) -> dict[str, Any] | None:
    """Find the numbers that follow: all that by themselves change tensors to what is wanted, and no other tensor.

    Where heads are as many as they were only together with others, they are tried together.
    """
    good: list[tuple[str, Any]] = []
    for one in candidates[:_MOST_BUILDS]:
        built = _built(kind, config, dict([one]))
        if built == wanted:
            return dict([one])
        if built is not None and built.keys() == now.keys() and built != now:
            good += [one] if all(shape in {now[name], wanted[name]} for name, shape in built.items()) else []
    heads = [one for one in candidates if _counts_heads(one[0])]
    pinned = [*heads, *_pinned(config, heads)]
    guesses = itertools.chain(
        [good, heads, pinned, [*good, *pinned], candidates], itertools.combinations(candidates, 2)
    )
    distinct = {repr(one): one for one in map(dict, itertools.islice(guesses, _MOST_BUILDS)) if one}
    return next((one for one in distinct.values() if _built(kind, config, one) == wanted), None)


def _pinned(config: Any, heads: Sequence[tuple[str, Any]]) -> list[tuple[str, int]]:
    """The width of heads, in a config that has no number for it and would divide its width by their number."""
    found = []
    for prefix in dict.fromkeys(name.rpartition(".")[0] for name, _ in heads):
        inner = config_value(config, prefix) if prefix else config
        width, old = getattr(inner, "hidden_size", None), getattr(inner, "num_attention_heads", None)
        if getattr(inner, "head_dim", None) is None and is_size(width) and is_size(old) and old:
            found.append((f"{prefix}.head_dim".lstrip("."), width // old))
    return found


def _candidates(
    config: Any, lengths: Mapping[int, Sequence[int]], counts: Mapping[int, int]
) -> Iterator[tuple[str, Any]]:
    """Numbers that may follow. A model with as many heads as a head is wide has equal shapes where either grows."""
    heads = {old: [new] for old, new in counts.items()}
    widths = {old: new for old, new in lengths.items() if old not in counts}
    for name, value in config_entries(config):
        leaf = name.rpartition(".")[2]
        known = heads if _counts_heads(name) else widths if "head" in leaf or leaf in _HEAD_WIDTHS else lengths
        if type(value) is int and value in known:
            yield from ((name, new) for new in known[value])
        elif isinstance(value, (list, tuple)) and any(type(one) is int and one in known for one in value):
            yield name, type(value)(known.get(one, [one])[0] if type(one) is int else one for one in value)
        else:
            yield from ((name, new) for new in _derived(leaf, value, lengths))


def _derived(leaf: str, value: Any, lengths: Mapping[int, Sequence[int]]) -> Iterator[Any]:
    """Values of an entry from which the model computes a length that changes."""
    pairs = [(old, new) for old, news in lengths.items() for new in news]
    if leaf.endswith("_ratio") and type(value) in (int, float):  # of widths that differ from stage to stage
        yield from dict.fromkeys(value * new / old for old, new in pairs)
    elif _SHARED.search(leaf) and type(value) is int and value:
        # Their widths stand side by side in one layer, as many times the width of one.
        yield from (new // (old // value) for old, new in pairs if old % value == 0 and new % (old // value) == 0)
    elif value is None and leaf in _DERIVED:
        yield from sorted({new for _, new in pairs}, reverse=True)[:3]


def _counts_heads(name: str) -> bool:
    name = name.rpartition(".")[2]
    return "head" in name and "dim" not in name and "size" not in name


def _built(kind: type[nn.Module], config: Any, values: dict[str, Any]) -> Shapes | None:
    """Shapes of a model made from the config with other values; None where none can be made."""
    built = built_from(kind, config, values)
    if built is None:
        return None
    return {name: tuple(parameter.shape) for name, parameter in built.named_parameters(remove_duplicate=False)}
