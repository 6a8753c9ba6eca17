"""What a config builds at another width: which of its numbers say how wide a model is, and what follows from them.

A Hugging Face model is built from its config alone. So changes of the config are tried by building (parameters on the
meta device, buffers for real). A change fits if every shape is one that the model can grow to: the streams by what is
asked, other volumes (heads, where the config has no number for their width) by whole units. What the built model's
modules hold beside its parameters, sizes, ``embed_scale``, is what the grown model's modules get.
"""

import itertools
import math
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.errors import SurgeryError
from graftwork.surgery._attributes import AttributeChange
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._layout import free_units, layout_of
from graftwork.surgery._space import Expr, Var, atoms, resolve, size_of
from graftwork.surgery.layers import built_from, config_entries, followed, parameters_on_meta, shapes_of
from graftwork.surgery.streams._find import follows, growable

_WIDTHS = re.compile(r"(^|\.)(hidden_sizes?|d_model|n_embd|embed_dim|dim|width|word_embed_proj_dim|embedding_size)$")
_HEADS = re.compile(r"(heads?|n_head|num_heads|attention_heads)$")
_EPSILON = re.compile(r"(eps|epsilon)$")
_INNERS = re.compile(r"(intermediate_size|ffn_dim|d_ff|n_inner|hidden_dim|mlp_dim)$")
_INNER = ("n_inner", "intermediate_size", "ffn_dim", "d_inner")
_MOST_BUILDS = 40


@dataclass(frozen=True)
class Wish:
    """What shall grow.

    Attributes:
        streams: Volumes of the residual streams → new units.
        factor: Ratio of heads and inner widths; None leaves them as they are, where the model can.
        others: Volumes → new units that grow along in a model without a config.
        method: How new units of other volumes are filled.
    """

    streams: dict[Var, int]
    factor: float | None = None
    others: dict[Var, int] = field(default_factory=dict)
    method: str = "netmorph"

    @property
    def ratio(self) -> float:
        """New over old width of the streams."""
        return next((var.size + added) / var.size for var, added in self.streams.items())


@dataclass(frozen=True)
class Target:
    """One way to make a model wider.

    Attributes:
        growth: Volume → new units: the streams, and what has to grow along.
        configs: Numbers of a config that change.
        attributes: Numbers of modules that change with it.
        buffers: Buffers that no file holds and that change with it: name → new value.
        epsilon: Whether the eps of norms are among the numbers.
    """

    growth: dict[Var, int]
    configs: tuple[AttributeChange, ...] = ()
    attributes: tuple[AttributeChange, ...] = ()
    buffers: tuple[tuple[str, Tensor], ...] = ()
    epsilon: bool = False


def config_targets(
    graph: ChannelGraph, owner: str, wish: Wish, problems: list[str], normed: Container[int]
) -> Iterator[Target]:
    """Yield ways to widen a model that a config builds: with the eps of its norms in step, then without.

    Args:
        graph: The model, as it was traced.
        owner: Path of the module that is built from a config.
        wish: What shall grow.
        problems: Gets why a change of the config does not fit.
        normed: Identities of volumes over which norms run.
    """
    whole = graph.model.get_submodule(owner)
    config: Any = whole.config
    before = _built(whole, config, {})
    if before is None or shapes_of(before) != shapes_of(whole):
        problems.append("it does not build the model as it is, which has grown")
        return
    epsilons = {
        name: value / wish.ratio
        for name, value in config_entries(config)
        if type(value) is float and _EPSILON.search(name)
    }
    for values, growth in _fitting(graph, owner, wish, problems, normed):
        for more in ([epsilons] if epsilons else []) + [{}]:
            after = _built(whole, config, {**values, **more})
            if after is not None:
                yield _target(owner, whole, before, after, {**values, **more}, growth)


def _fitting(
    graph: ChannelGraph, owner: str, wish: Wish, problems: list[str], normed: Container[int]
) -> Iterator[tuple[dict[str, Any], dict[Var, int]]]:
    """Changes of a config that the model can follow, with what then grows; best first."""
    whole = graph.model.get_submodule(owner)
    config, found = whole.config, []
    guesses = _guesses(config, wish.streams, wish.ratio)
    if wish.factor is not None:
        guesses = itertools.chain(_larger_guesses(config, wish), guesses)
    for values in itertools.islice(guesses, _MOST_BUILDS):
        built = _built(whole, config, values)
        growth = None if built is None else fit(graph, owner, shapes_of(built), wish, problems, normed)
        if growth is None or not _counted(config, values, growth, graph):
            continue
        if wish.factor is not None or len(growth) == len(wish.streams):
            yield values, growth
        else:
            found.append((values, growth))
    yield from sorted(found, key=lambda pair: (_tied(pair[1], wish, normed), len(pair[1]), len(pair[0])))


def _tied(growth: Mapping[Var, int], wish: Wish, normed: Container[int]) -> int:
    """How many volumes grow that can only grow like a stream: as few of them as can be."""
    return sum(var not in wish.streams and not growable(var, normed) for var in growth)


def _target(owner: str, whole: Any, before: nn.Module, after: nn.Module, values: dict[str, Any],
            growth: dict[Var, int]) -> Target:  # fmt: skip
    configs, numbers = followed(owner, whole, values, before, after)
    kept, own, news = set(whole.state_dict()), dict(whole.named_buffers()), dict(after.named_buffers())
    buffers = [
        (f"{owner}.{name}".strip("."), news[name].to(own[name].dtype))
        for name, old in before.named_buffers()
        if name in own and name not in kept and name in news and not _same(old, news[name]) and _near(own[name], old)
    ]
    return Target(growth, configs, numbers, tuple(buffers), any(_EPSILON.search(n) for n in values))


def _same(old: Tensor, new: Tensor) -> bool:
    return old.shape == new.shape and bool(torch.equal(old, new))


def _near(own: Tensor, old: Tensor) -> bool:
    return own.shape == old.shape and bool(torch.allclose(own.double().cpu(), old.double(), rtol=1e-3))


def _guesses(config: Any, streams: Mapping[Var, int], ratio: float) -> Iterator[dict[str, Any]]:
    """Ways in which a config may say how wide the stream is, likely ones first."""
    sizes = {var.size: var.size + added for var, added in streams.items()}
    wide = _widths(config, sizes)
    likely = [name for name in wide if _WIDTHS.search(name)]
    heads = [(n, v) for n, v in config_entries(config) if type(v) is int and _HEADS.search(n) and v > 1]
    pins = [{}, *_pins(config, sizes, heads)]
    if type(expand := getattr(config, "expand", None)) is int:  # an inner width that is a multiple of the stream's
        pins.append({"expand": expand / ratio})
    more = {name: _times(value, ratio) for name, value in config_entries(config) if _is_heads(name, value, ratio)}
    for names in dict.fromkeys([tuple(likely), *_subsets(likely), tuple(wide)]):
        chosen = {name: wide[name] for name in names}
        if not chosen:
            continue
        for pin in pins:
            yield {**chosen, **pin}
        for pin in pins:
            if more and not any(name.endswith("head_dim") for name in pin):
                yield {**chosen, **pin, **more}
                queries = {name: v for name, v in more.items() if "key_value" not in name and "kv" not in name}
                if queries != more:
                    yield {**chosen, **pin, **queries}


def _widths(config: Any, sizes: Mapping[int, int]) -> dict[str, Any]:
    """Entries of a config that hold the width of a stream, with their new values."""
    wide: dict[str, Any] = {}
    for name, value in config_entries(config):
        if type(value) is int and value in sizes:
            wide[name] = sizes[value]
        elif isinstance(value, (list, tuple)) and value and all(type(v) is int and v in sizes for v in value):
            wide[name] = type(value)(sizes[v] for v in value)
    return wide


def _larger_guesses(config: Any, wish: Wish) -> Iterator[dict[str, Any]]:
    """Ways in which a config may say that heads and inner widths grow too: all of them, then some."""
    sizes = {var.size: var.size + added for var, added in wish.streams.items()}
    factor = wish.factor or 1.0
    wide = {name: value for name, value in _widths(config, sizes).items() if _WIDTHS.search(name)}
    inner = {
        name: round(value * factor)
        for name, value in config_entries(config)
        if type(value) is int and _INNERS.search(name)
    }
    heads = {name: _times(value, factor) for name, value in config_entries(config) if _is_heads(name, value, factor)}
    queries = {name: value for name, value in heads.items() if "key_value" not in name and "kv" not in name}
    derived = {name: round(4 * next(iter(sizes)) * factor) for name in _INNER if getattr(config, name, 0) is None}
    counts = [(name, value) for name, value in config_entries(config) if name in heads and type(value) is int]
    pins = [pin for pin in _pins(config, sizes, counts) if "head_dim" in pin]
    for more in ({**heads, **inner}, {**queries, **inner}, {**heads, **inner, **derived}, {**inner, **derived}, inner,
                 heads, queries):  # fmt: skip
        for pin in ({}, *pins):
            yield {**wide, **more, **pin}


def _is_heads(name: str, value: Any, ratio: float) -> bool:
    """Whether an entry of a config counts heads, and may be multiplied."""
    counts = value if isinstance(value, (list, tuple)) else [value]
    return bool(_HEADS.search(name) and counts) and all(
        type(one) is int and one > 1 and float(one * ratio).is_integer() for one in counts
    )


def _times(value: Any, ratio: float) -> Any:
    return (
        type(value)(round(one * ratio) for one in value) if isinstance(value, (list, tuple)) else round(value * ratio)
    )


def _subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for count in range(1, len(names)):
        yield from itertools.combinations(names, count)


def _pins(config: Any, sizes: Mapping[int, int], heads: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    """Numbers that a config derives from its width unless they are given: the width of heads, that of an MLP."""
    width = next(iter(sizes))
    inner = {name: 4 * width for name in _INNER if getattr(config, name, 0) is None}
    if getattr(config, "head_dim", None) is not None:  # it has a number of its own already
        return [inner] if inner else []
    queries = [value for name, value in heads if "key_value" not in name and "kv" not in name]
    dims = [{"head_dim": width // value} for value in dict.fromkeys(queries) if width % value == 0]
    return [*dims, *([inner] if inner else []), *({**one, **inner} for one in dims if inner)]


def fit(
    graph: ChannelGraph,
    owner: str,
    shapes: Mapping[str, tuple[int, ...]],
    wish: Wish,
    problems: list[str],
    normed: Container[int],
) -> dict[Var, int] | None:
    """Return which volumes have to grow, and by what, for a model to have given shapes; None where it can't.

    Args:
        graph: The model.
        owner: Path of the part that has the shapes.
        shapes: Name of every tensor → wanted shape.
        wish: What grows in any case, the streams.
        problems: Gets what can't grow.
        normed: Identities of volumes over which norms run: they grow by the ratio of the streams, or not at all.
    """
    names = {id(tensor): name for name, tensor in graph.trace.tensors.items()}
    own = graph.model.get_submodule(owner).state_dict(keep_vars=True)
    if own.keys() != shapes.keys() or any(id(tensor) not in names for tensor in own.values()):
        return None
    wanted: dict[int, _Wanted] = {}
    for name, tensor in own.items():
        dims = graph.trace.spaces[names[id(tensor)]]
        if len(shapes[name]) != len(dims):
            return None
        for expr, size in zip(dims, shapes[name], strict=True):
            if wanted.setdefault(id(expr), _Wanted(name, expr, size, tuple(atoms(expr)))).size != size:
                return None
    growth = dict(wish.streams)
    for one in wanted.values():
        missing = one.size - one.length(growth)
        if missing > 0 and not any(var in wish.streams for var in one.volumes):
            free = [var for var in one.volumes if growable(var, normed)]
            like = [var for var in one.volumes if var not in free and follows(var)]
            like = [var for var in like if one.length_of(var) * var.size * (wish.ratio - 1) == missing]
            var = next((var for var in free + like if _fits(var, one, missing, growth, wanted)), None)
            if var is None:
                reasons = [reason.text for var in one.volumes for reason in var.reasons] or ["it does not divide"]
                problems.append(f"{one.name!r} would have to grow along, and can't: {reasons[0]}")
                return None
            growth[var] = missing // one.length_of(var)
    try:
        growth = graph.close(growth, step=1)
    except SurgeryError:
        return None
    return growth if all(one.length(growth) == one.size for one in wanted.values()) else None


@dataclass(frozen=True)
class _Wanted:
    """One dimension of a tensor, the length that it shall have, and its volumes."""

    name: str
    expr: Expr
    size: int
    volumes: tuple[Var, ...]

    def length(self, growth: Mapping[Var, int]) -> int:
        """Return the length after a growth."""
        added = {var: free_units(var.size, growth[var]) for var in self.volumes if var in growth}
        return layout_of(self.expr, added).new_size if added else size_of(self.expr)

    def length_of(self, var: Var) -> int:
        """Return how much longer one more unit makes it."""
        return self.length({var: 1}) - size_of(self.expr)


def _fits(var: Var, one: _Wanted, missing: int, growth: Mapping[Var, int], wanted: Mapping[int, _Wanted]) -> bool:
    """Whether a volume can make a dimension as long as wanted, and none too long."""
    rows = one.length_of(var)
    if var in growth or missing % rows:
        return False
    grown = {**growth, var: missing // rows}
    return all(other.length(grown) <= other.size for other in wanted.values() if var in other.volumes)


def _counted(config: Any, values: Mapping[str, Any], growth: Mapping[Var, int], graph: ChannelGraph) -> bool:
    """Whether numbers of heads change just where heads grow, whatever the shapes say."""
    counts = _counts(graph, growth)
    ratios = {(var.size + added) / var.size for var, added in growth.items()}
    for name, value in config_entries(config):
        if not _HEADS.search(name):
            continue
        olds, news = (v if isinstance(v, (list, tuple)) else [v] for v in (value, values.get(name, value)))
        for old, new in zip(olds, news, strict=True):
            if type(old) is not int or old <= 1:
                continue
            if new not in counts[old] if old in counts else new != old and new / old not in ratios:
                return False
    return True


def _counts(graph: ChannelGraph, growth: Mapping[Var, int]) -> dict[int, set[int]]:
    """What may be numbers of heads, before → after: runs of volumes in products, but the innermost."""
    found: dict[int, set[int]] = {}
    for segment in {segment for dims in graph.trace.spaces.values() for expr in dims for segment in resolve(expr)}:
        for start, stop in itertools.combinations(range(len(segment)), 2):
            run = segment[start:stop]
            after = math.prod(var.size + growth.get(var, 0) for var in run)
            found.setdefault(math.prod(var.size for var in run), set()).add(after)
    return found


# -- building
# ------------------------------------------------------------------------------------------------------------------


def _built(whole: nn.Module, config: Any, values: dict[str, Any]) -> nn.Module | None:
    """A model of the kind and the precision of another one, made from a config; None where none can be made."""
    return built_from(type(whole), config, values, within=parameters_on_meta(whole))
