"""What a model would be if it were built at the new depth: an oracle for names, numbers and the config.

A model of transformers or diffusers is built from its config alone. So the config that builds the grown model is looked
for by building (on the meta device, without weights), and what that model's layers hold, ``layer_idx``, ``is_sliding``,
drop-path rates, is what the grown model's layers get. No list of names is needed.
"""

import copy
import itertools
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._attributes import AttributeChange
from graftwork.surgery.layers._numbers import COUNTS, PLAIN, inserted
from graftwork.surgery.layers._stack import Stack

Shapes = dict[str, tuple[int, ...]]
Guess = Callable[[Sequence[int]], dict[str, Any]]
"""Sources of the new entries → values of the config."""
_MOST_BUILDS = 24
_DEFAULTS = "_use_default_values"
"""Entry of a config of diffusers: names of those that were not given, and that it builds as if they were not there."""


@dataclass(frozen=True)
class Reference:
    """What a config that follows the growth builds.

    Attributes:
        configs: Numbers of the config that change; their names may have dots.
        sources: Old position of the entry that each new one copies.
        attributes: Numbers of modules that change, by paths after the growth.
    """

    configs: tuple[AttributeChange, ...]
    sources: tuple[int, ...]
    attributes: tuple[AttributeChange, ...]


def owner_of(model: nn.Module, path: str) -> str | None:
    """Return the outermost module around a path that is built from a config alone, None where there is none."""
    steps = path.split(".") if path else []
    for at in range(len(steps) + 1):
        module = model.get_submodule(".".join(steps[:at]))
        if is_built_from_config(module):
            return ".".join(steps[:at])
    return None


def is_built_from_config(module: nn.Module) -> bool:
    """Whether a module is one of transformers or of diffusers, whose configs are all that they are built from."""
    config = getattr(module, "config", None)
    if hasattr(type(module), "config_class"):
        return hasattr(config, "to_dict")
    return hasattr(type(module), "from_config") and isinstance(config, dict) and hasattr(config, "__dict__")


def find_reference(model: nn.Module, owner: str, stack: Stack, usable: Sequence[Sequence[int]]) -> Reference | None:
    """Find how the config follows a growth, and what a model built from it holds.

    Args:
        model: The model, before the growth.
        owner: What `owner_of` has returned.
        stack: What grows.
        usable: For each new entry, the old ones that it may copy, best first.

    Returns:
        The reference; None where the config does not even build the model as it is.

    Raises:
        SurgeryError: No change of the config builds the grown model.
    """
    whole = model.get_submodule(owner)
    config: Any = whole.config
    before = built_from(type(whole), config, {})
    if before is None or shapes_of(before) != shapes_of(whole):
        return None
    inner = replace(stack, path=stack.path.removeprefix(f"{owner}.") if owner else stack.path)
    problem = "no number of it makes a model of that depth"
    for guess in itertools.islice(_guesses(config, inner), _MOST_BUILDS):
        sources = tuple(choice[0] for choice in usable)
        for _ in range(3):  # a list for each layer changes with the sources, and the sources with what it builds
            values = guess(sources)
            after = built_from(type(whole), config, values)
            if after is None:
                break
            chosen, unlike = _choose(before, after, inner, usable)
            if unlike:
                problem = f"what it builds at that depth has another {unlike!r}"
                break
            if chosen == sources or guess(chosen) == values:
                more = {**values, **_derived(config, values)}
                derived = built_from(type(whole), config, more)
                if derived is not None and shapes_of(derived) == shapes_of(after):  # T5 counts its decoder apart
                    values = more
                configs, others = followed(owner, whole, values, before, after, but=inner.holds)
                numbers = _under(owner, _numbers(before, after, inner, chosen))
                return Reference(configs, chosen, (*numbers, *others))
            sources = chosen
    raise SurgeryError(
        f"{stack.path!r} can't get new entries after {list(stack.places)}: its config can't describe the grown model "
        f"({problem}); choose other places, several entries at one place where kinds of layers alternate, or grow a "
        "part of the model that has no such tensor"
    )


def _under(owner: str, changes: Iterable[AttributeChange]) -> list[AttributeChange]:
    return [AttributeChange(f"{owner}.{c.path}".strip("."), c.name, c.old, c.new) for c in changes]


# -- guesses
# ---------------------------------------------------------------------------------------------------------------


def _guesses(config: Any, stack: Stack) -> Iterator[Guess]:
    """Ways in which a config may say how many layers there are, likely ones first."""
    length, grown = stack.length, stack.length + len(stack.new)
    heads: list[tuple[str, Guess]] = []
    lists: list[tuple[str, Guess]] = []
    for name, value in config_entries(config):
        if type(value) is int and value == length:
            heads.append((name, lambda _, n=name: {n: grown}))  # type: ignore[misc]
        elif isinstance(value, (list, tuple)) and all(type(item) in PLAIN for item in value):
            for at, item in enumerate(value):
                if type(item) is int and item == length:
                    heads.append((name, lambda _, n=name, v=value, i=at: {n: _with(v, i, grown)}))  # type: ignore[misc]
            if len(value) == length:
                lists.append((name, lambda s, n=name, v=value: {n: inserted(v, stack, s)}))  # type: ignore[misc]
    heads.sort(key=lambda head: not COUNTS.search(head[0]))
    chosen = [(), tuple(lists), *((one,) for one in lists)] if lists else [()]
    for several in (1, 2):
        for some in itertools.combinations(heads, several):
            for more in dict.fromkeys(chosen):
                guesses = [guess for _, guess in (*some, *more)]
                yield lambda s, g=guesses: {k: v for one in g for k, v in one(s).items()}  # type: ignore[misc]


def config_entries(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every plain entry of a config and of the configs in it; inner names have dots."""
    for name, value in list(vars(config).items()):
        if name.startswith("_"):
            continue
        if hasattr(value, "to_dict"):
            yield from config_entries(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _with(value: Any, at: int, new: int) -> Any:
    return type(value)(new if i == at else item for i, item in enumerate(value))


def _derived(config: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Further numbers that a config of its class sets from those (``num_hidden_layers`` from ``encoder_layers``)."""
    plain = {name: value for name, value in values.items() if type(value) is int and "." not in name}
    try:
        old = type(config)(**{name: getattr(config, name) for name in plain})
        new = type(config)(**plain)
    except Exception:  # a class that needs more than these
        return {}
    return {
        name: value
        for name, value in vars(new).items()
        if type(value) is int and name not in values and vars(old).get(name) == getattr(config, name, None) != value
    }


def config_value(config: Any, name: str) -> Any:
    """Return an entry of a config; its name may have dots. None where there is none."""
    for step in name.split("."):
        config = getattr(config, step, None)
    return config


def changed_config(config: Any, values: dict[str, Any], memo: dict[int, Any] | None = None) -> Any:
    """Return a copy of a config with other values; names may have dots."""
    changed = copy.deepcopy(config, memo)
    for name, value in values.items():
        path, _, leaf = name.rpartition(".")
        holder = config_value(changed, path) if path else changed
        if isinstance(holder, dict):
            dict.__setitem__(holder, leaf, value)
            if leaf in (defaults := holder.get(_DEFAULTS, [])):
                defaults.remove(leaf)
        if value is None and hasattr(holder, "__dict__") and not hasattr(type(holder), leaf):
            vars(holder).pop(leaf, None)  # an entry that the class does not know, and that was not there
        elif hasattr(holder, "__dict__"):  # also beside the entries of a dictionary, as in diffusers
            object.__setattr__(holder, leaf, value)  # a frozen dataclass too: the copy is ours
    return changed


def built_from(
    kind: type[nn.Module],
    config: Any,
    values: dict[str, Any],
    *,
    within: AbstractContextManager[Any] | None = None,
) -> nn.Module | None:
    """Return a model made from a config with other values, where one can be made, also as it would be read from a file.

    Args:
        kind: Class of the model.
        config: The config; left as it is.
        values: Entry → other value; names may have dots.
        within: Context in which the model is built, without weights. None for the meta device.
    """
    try:
        changed = changed_config(config, values)
        if isinstance(changed, dict):
            return _from_entries(kind, changed)
        stored = type(config).from_dict(changed.to_dict())
        if any(config_value(stored, name) != value for name, value in values.items()):
            return None
        if hasattr(stored, "validate") and values:
            stored.validate()
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), within or torch.device("meta"):
            warnings.simplefilter("ignore")
            return kind(changed)
    except Exception:  # whatever the constructor raises
        return None


def _from_entries(kind: Any, config: dict[str, Any]) -> nn.Module:
    """A model of diffusers, as its file of a config would build it."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.device("meta"):
        warnings.simplefilter("ignore")
        return kind.from_config(config)  # type: ignore[no-any-return]


@contextmanager
def parameters_on_meta(like: nn.Module | torch.dtype) -> Iterator[None]:
    """Put every parameter that a module registers in this thread on the meta device; buffers are made for real.

    Args:
        like: Precision of new tensors, or a model that has it.
    """
    register, old, thread = nn.Module.register_parameter, torch.get_default_dtype(), threading.get_ident()
    kinds = [like] if isinstance(like, torch.dtype) else [p.dtype for p in like.parameters() if p.is_floating_point()]

    def on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(module, name, param)
        if param is not None and not param.is_meta and threading.get_ident() == thread:
            module._parameters[name] = nn.Parameter(param.data.to("meta"), requires_grad=param.requires_grad)  # noqa: SLF001

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        torch.set_default_dtype(kinds[0] if kinds else old)
        yield
    finally:
        torch.set_default_dtype(old)
        nn.Module.register_parameter = register  # type: ignore[method-assign]


# -- comparison
# ------------------------------------------------------------------------------------------------------------


def shapes_of(module: nn.Module) -> Shapes:
    """Return the shape of every tensor of a module's state."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict(keep_vars=True).items()}


def _choose(
    before: nn.Module, after: nn.Module, stack: Stack, usable: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], str]:
    """For each new entry the usable old one that is most like what the config builds there.

    Returns:
        The old entries, and the name of a tensor that fits none; empty where all is well.
    """
    keys, chosen = stack.grown_keys, []
    built = shapes_of(after)
    new = {place: stack.at(keys[place]) for place in stack.new}
    rest = {name: shape for name, shape in built.items() if not name.startswith(tuple(f"{p}." for p in new.values()))}
    held = {path for path, _ in after.named_modules()}
    if lost := [path for path in new.values() if path not in held]:
        return (), lost[0]
    unlike = _other({stack.renamed(name): shape for name, shape in shapes_of(before).items()}, rest)
    if unlike:
        return (), unlike
    for (place, path), choice in zip(new.items(), usable, strict=True):
        there = after.get_submodule(path)
        fitting = [i for i in choice if shapes_of(_entry(before, stack, i)) == shapes_of(there)]
        if not fitting:
            return (), f"{path}.{_other(shapes_of(_entry(before, stack, choice[0])), shapes_of(there))}"
        differing = {i: _unlike(_entry(before, stack, i), there, place - i) for i in fitting}
        chosen.append(min(fitting, key=lambda i: (differing[i], choice.index(i))))
    return tuple(chosen), ""


def _other(old: Shapes, new: Shapes) -> str:
    """The first tensor that one has and the other has not, or has in another shape."""
    return next((name for name in (*new, *old) if old.get(name) != new.get(name)), "")


def _entry(before: nn.Module, stack: Stack, position: int) -> nn.Module:
    return before.get_submodule(stack.at(stack.own[position][0]))


def differences(first: nn.Module, second: nn.Module) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield plain values that two modules of one structure hold differently: path, name, first's and second's."""
    others = dict(second.named_modules())
    for path, module in first.named_modules():
        other = others.get(path)
        if other is None:
            continue
        for name, value in vars(module).items():
            new = vars(other).get(name)
            if name != "training" and _is_plain(value) and _is_plain(new) and value != new:
                yield path, name, value, new


def _unlike(old: nn.Module, built: nn.Module, shift: int) -> float:
    """How much two entries differ, numbers of their places left out; rates (of dropout) and types count less."""
    values = [(first, second) for _, _, first, second in differences(old, built)]
    kinds = zip(old.modules(), built.modules(), strict=False)
    return (
        sum(
            type(first) is not float and not (type(first) is int and second == first + shift)
            for first, second in values
        )
        + 0.01 * sum(type(first) is float for first, _ in values)
        + 0.1 * sum(type(first) is not type(second) for first, second in kinds)
    )


def _is_plain(value: Any) -> bool:
    return type(value) in PLAIN or (isinstance(value, (list, tuple)) and all(type(item) in PLAIN for item in value))


def _numbers(before: nn.Module, after: nn.Module, stack: Stack, sources: Sequence[int]) -> Iterator[AttributeChange]:
    """Numbers that the entries have to hold to be as the config builds them."""
    keys = stack.grown_keys
    places = [*zip(range(stack.length), stack.old, strict=True), *zip(sources, stack.new, strict=True)]
    for position, place in places:
        path = stack.at(keys[place])
        live = stack.entries[position]
        for inner, name, old, new in differences(_entry(before, stack, position), after.get_submodule(path)):
            if vars(live.get_submodule(inner)).get(name) == old:
                yield AttributeChange(f"{path}.{inner}".rstrip("."), name, old, new)


def _inner_configs(whole: nn.Module, before: nn.Module, after: nn.Module) -> Iterator[AttributeChange]:
    """What changes in configs that parts of a model have made for themselves (the decoder's own, in T5)."""
    built, live = dict(after.named_modules()), dict(whole.named_modules())
    seen = {id(getattr(before, "config", None))}
    for path, module in before.named_modules():
        config = vars(module).get("config")
        if id(config) in seen or not hasattr(config, "to_dict") or path not in built or path not in live:
            continue
        seen.add(id(config))
        new, own = vars(vars(built[path]).get("config", object)), vars(live[path]).get("config")
        for name, value in vars(config).items():
            changed = name in new and _is_plain(value) and _is_plain(new[name]) and value != new[name]
            if changed and getattr(own, name, None) == value and not name.startswith("_"):
                yield AttributeChange(f"{path}.config", name, value, new[name])


def followed(
    owner: str,
    whole: Any,
    values: Mapping[str, Any],
    before: nn.Module,
    after: nn.Module,
    *,
    but: Callable[[str], bool] = lambda _path: False,
) -> tuple[tuple[AttributeChange, ...], tuple[AttributeChange, ...]]:
    """Return what changes in configs, and in the numbers of modules, where a config gets other values.

    Args:
        owner: Path of the module that is built from the config.
        whole: That module.
        values: Entry of the config → new value.
        before: What the config builds as it is.
        after: What it builds with the values; of the same structure.
        but: Whether numbers of the module of a path are left out.
    """
    path, live = f"{owner}.config".lstrip("."), dict(whole.named_modules())
    configs = [AttributeChange(path, name, config_value(whole.config, name), new) for name, new in values.items()]
    numbers = [
        AttributeChange(inner, name, old, new)
        for inner, name, old, new in differences(before, after)
        if inner in live and not but(inner) and vars(live[inner]).get(name) == old
    ]
    return (*configs, *_under(owner, _inner_configs(whole, before, after))), tuple(_under(owner, numbers))
