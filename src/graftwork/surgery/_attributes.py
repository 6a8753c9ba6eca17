"""Numbers that modules hold about their own width."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._layout import UnitMap, layout_of
from graftwork.surgery._space import Var, resolve
from graftwork.surgery._transaction import Transaction

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class AttributeChange:
    """One number that changes with the width.

    Attributes:
        path: Path of the module (or of the object it holds, such as ``encoder.config``).
        name: Name of the attribute.
        old: Value before.
        new: Value after.
    """

    path: str
    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        old, new = (f"{len(v)} entries" if isinstance(v, dict) else v for v in (self.old, self.new))
        return f"{self.path}.{self.name}: {old} → {new}".lstrip(".")


def logged_size(owner: nn.Module, path: str, name: str, value: Any) -> Any:
    """The value that a log gives to a size of a module: whole numbers in place of whole numbers, and nothing else.

    A log may come from a stranger. Sizes are all that a growth changes, so a log never sets a tolerance or a method.

    Args:
        owner: The module.
        path: Its path, for messages.
        name: Name of the attribute.
        value: What the log holds; a list where the attribute is a tuple, since JSON has no tuples.

    Raises:
        SurgeryError: If the module has no such size, or the value is none.
    """
    old = vars(owner).get(name)
    olds, news = (old, value) if isinstance(old, tuple | list) else ((old,), (value,))
    if not isinstance(news, tuple | list) or len(olds) != len(news) or not all(map(is_size, (*olds, *news))):
        raise SurgeryError(
            f"growth log: expected a size of module {path!r} and whole numbers for it, got {name!r} and {value!r}; "
            "the log is damaged, or of another model"
        )
    return tuple(value) if isinstance(old, tuple) else value


def logged_change(holder: Any, path: str, name: str, value: Any) -> AttributeChange:
    """A number or text that a log gives to a layer or a config: plain data in place of plain data of the same kind.

    Args:
        holder: The module or config.
        path: Its path.
        name: Name of the attribute; with dots where a config holds others.
        value: What the log holds.

    Raises:
        SurgeryError: If there is nothing of this kind, or the name is private to PyTorch.
    """
    old = holder
    for step in name.split("."):
        old = old.get(step, object()) if isinstance(old, dict) else getattr(old, step, object())
    private = any(step.startswith("_") or step in _NEVER for step in name.split("."))
    if private or not _kind(old) or _kind(old) != _kind(value):
        raise SurgeryError(
            f"growth log: expected plain data of {path!r} of the same kind, got {name!r} and {value!r}; the log is "
            "damaged, or of another model"
        )
    return AttributeChange(path, name, None, value)


def check_claim(number: int, before: int, what: str) -> None:
    """Refuse what no growth of a model can lead to, before memory is taken for it.

    Args:
        number: Weights that a log claims.
        before: Weights that are there.
        what: What is claimed, for the message.

    Raises:
        SurgeryError: If it is out of all proportion.
    """
    if number > max(_ROOM, _MOST_TIMES * before):
        raise SurgeryError(f"growth log: expected the size of a growth of this model, got {what}; the log is damaged")


_ROOM, _MOST_TIMES = 2**24, 4096
_MOST_SIZES = 16
_NEVER = ("training", "dump_patches", "call_super_init")


def _kind(value: Any) -> str:
    """Kind of plain data, whatever its value; empty for other objects."""
    if isinstance(value, tuple | list):
        return "list" if all(map(_kind, value)) else ""
    if isinstance(value, bool) or value is None:
        return "flag"
    return "number" if isinstance(value, int | float) else "text" if isinstance(value, str) else ""


def is_size(value: Any) -> bool:
    """Whether a value is a whole number that a size may be."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40


def set_attribute(transaction: Transaction, model: nn.Module, change: AttributeChange) -> None:
    """Change one number of a module."""
    owner = model.get_submodule(change.path)
    transaction.step(
        f"attribute {change.path}.{change.name}",
        lambda: setattr(owner, change.name, change.new),
        lambda: setattr(owner, change.name, change.old),
    )


def _conv(module: Any, shapes: Mapping[str, Shape], groups: int) -> dict[str, Any]:
    weight = shapes["weight"]
    if module.transposed:
        return {"in_channels": weight[0], "out_channels": weight[1] * groups, "groups": groups}
    return {"out_channels": weight[0], "in_channels": weight[1] * groups, "groups": groups}


def _rnn(module: Any, shapes: Mapping[str, Shape], groups: int) -> dict[str, Any]:
    gates = module.weight_hh_l0.shape[0] // module.hidden_size
    sizes = {"hidden_size": shapes["weight_hh_l0"][0] // gates, "input_size": shapes["weight_ih_l0"][1]}
    return sizes | ({"proj_size": shapes["weight_hr_l0"][0]} if module.proj_size else {})


def _cell(module: Any, shapes: Mapping[str, Shape], groups: int) -> dict[str, Any]:
    return {"hidden_size": shapes["weight_hh"][1], "input_size": shapes["weight_ih"][1]}


def _linear(module: Any, shapes: Mapping[str, Shape], groups: int) -> dict[str, Any]:
    return {"out_features": shapes["weight"][0], "in_features": shapes["weight"][1]}


def _bilinear(module: Any, shapes: Mapping[str, Shape], groups: int) -> dict[str, Any]:
    outputs, first, second = shapes["weight"]
    return {"out_features": outputs, "in1_features": first, "in2_features": second}


def _embedding(module: Any, shapes: Mapping[str, Shape], groups: int) -> dict[str, Any]:
    return {"num_embeddings": shapes["weight"][0], "embedding_dim": shapes["weight"][1]}


def _norm(module: Any, shapes: Mapping[str, Shape], groups: int) -> dict[str, Any]:
    own = shapes.get("weight") or shapes.get("running_mean")
    return {"num_features": own[0]} if own else {}


def _group_norm(module: Any, shapes: Mapping[str, Shape], groups: int) -> dict[str, Any]:
    per_group = module.num_channels // module.num_groups
    channels = shapes["weight"][0] if "weight" in shapes else groups * per_group
    return {"num_channels": channels, "num_groups": groups}


def _prelu(module: Any, shapes: Mapping[str, Shape], groups: int) -> dict[str, Any]:
    return {"num_parameters": shapes["weight"][0]}


def _layer_norm(module: Any, shapes: Mapping[str, Shape], groups: int) -> dict[str, Any]:
    return {"normalized_shape": shapes["weight"]} if "weight" in shapes else {}


def _transposed_linear(module: Any, shapes: Mapping[str, Shape], groups: int) -> dict[str, Any]:
    """The linear map of GPT-2 (``transformers.pytorch_utils.Conv1D``), whose weight is [inputs, outputs]."""
    now, then = tuple(module.weight.shape), shapes["weight"]
    return {name: then[dim] for name, dim in (("nx", 0), ("nf", 1)) if getattr(module, name, None) == now[dim]}


_STANDARD: list[tuple[type[nn.Module], Callable[[Any, Mapping[str, Shape], int], dict[str, Any]]]] = [
    (nn.modules.conv._ConvNd, _conv),  # noqa: SLF001 - the common base of all convolutions
    (nn.Linear, _linear),
    (nn.Embedding, _embedding),
    (nn.EmbeddingBag, _embedding),
    (nn.Bilinear, _bilinear),
    (nn.GroupNorm, _group_norm),
    (nn.modules.batchnorm._NormBase, _norm),  # noqa: SLF001 - and of batch and instance norms
    (nn.PReLU, _prelu),
    (nn.LayerNorm, _layer_norm),
    (nn.RMSNorm, _layer_norm),
    (nn.RNNBase, _rnn),
    (nn.RNNCellBase, _cell),
]


_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def standard_attributes(
    graph: ChannelGraph, growth: Mapping[Var, UnitMap], shapes: Mapping[str, Shape]
) -> list[AttributeChange]:
    """Return the changes of attributes of PyTorch's own modules, and of transformers' ``Conv1D``.

    Args:
        graph: The channel graph.
        growth: Volumes that grow.
        shapes: Tensor → shape after the growth, for every tensor of the model.
    """
    changes: list[AttributeChange] = []
    for path, module in graph.model.named_modules():
        for name, new in _new_numbers(graph, growth, shapes, path, module).items():
            old = getattr(module, name)
            if old != new:
                changes.append(AttributeChange(path, name, old, new))
    return [*changes, *_told_by_adapters(graph.model, changes)]


def _told_by_adapters(model: nn.Module, changes: Sequence[AttributeChange]) -> Iterator[AttributeChange]:
    """What a layer with adapters keeps of the sizes of its base layer, and makes new adapters by."""
    for change in changes:
        path, _, leaf = change.path.rpartition(".")
        name = _SIDES.get(change.name)
        if leaf == "base_layer" and name and vars(model.get_submodule(path)).get(name) == change.old:
            yield AttributeChange(path, name, change.old, change.new)


_SIDES = {
    **dict.fromkeys(("in_features", "in_channels", "num_embeddings", "nx"), "in_features"),
    **dict.fromkeys(("out_features", "out_channels", "embedding_dim", "nf"), "out_features"),
}


def _new_numbers(
    graph: ChannelGraph, growth: Mapping[Var, UnitMap], shapes: Mapping[str, Shape], path: str, module: nn.Module
) -> dict[str, Any]:
    """The numbers of one of PyTorch's own modules after a growth, by name; none for other modules."""
    prefix = f"{path}." if path else ""
    own = {
        leaf: shapes[prefix + leaf]
        for leaf in [*module._parameters, *module._buffers]  # noqa: SLF001
        if prefix + leaf in shapes
    }
    if not own and path in graph.trace.module_outputs:
        sizes = [layout_of(expr, growth).new_size for expr in graph.trace.module_outputs[path][0]]
        if found := _of_output(module, sizes):
            return found
    rule = next((rule for kind, rule in _STANDARD if isinstance(module, kind)), None)
    if rule is None and type(module).__name__ == "Conv1D" and getattr(module, "weight", None) is not None:
        rule = _transposed_linear
    if rule is None:
        return {}
    for computed in ("weight_v", "parametrizations.weight.original1"):  # weight normalization: of the same shape
        if prefix + computed in shapes:
            own["weight"] = shapes[prefix + computed]
    groups = getattr(module, "groups", getattr(module, "num_groups", 1))
    if path in graph.trace.groups:
        groups = layout_of(graph.trace.groups[path], growth).new_size
    if path in graph.trace.normalized:  # also where the norm has no weight to read the width from
        own["weight"] = tuple(layout_of(expr, growth).new_size for expr in graph.trace.normalized[path])
    if (not own and not isinstance(module, nn.GroupNorm)) or not _complete(module, own):
        return {}
    return rule(module, own, groups)


def _of_output(module: Any, sizes: list[int]) -> dict[str, Any]:
    """Numbers of a module without tensors, read off the output that it makes."""
    if isinstance(module, nn.modules.batchnorm._NormBase):  # noqa: SLF001 - the base of batch and instance norms
        unbatched = isinstance(module, _INSTANCE_NORMS) and len(sizes) == module._get_no_batch_dim()  # noqa: SLF001
        return {"num_features": sizes[0 if unbatched else 1]}
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return {"normalized_shape": tuple(sizes[-len(module.normalized_shape) :])}
    if isinstance(module, nn.Unflatten) and isinstance(module.dim, int):
        count = len(module.unflattened_size)
        at = module.dim if module.dim >= 0 else len(sizes) - count + 1 + module.dim
        made = zip(module.unflattened_size, sizes[at : at + count], strict=True)
        return {"unflattened_size": type(module.unflattened_size)([n if n == -1 else new for n, new in made])}
    return {}


def _complete(module: nn.Module, own: Mapping[str, Shape]) -> bool:
    """A parametrized or weight-normed module has no plain weight to read the width from."""
    if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding, nn.EmbeddingBag, nn.Bilinear, nn.PReLU)):  # noqa: SLF001
        return "weight" in own
    return True


def guessed_attributes(
    graph: ChannelGraph, growth: Mapping[Var, UnitMap], touched: list[str], *, reach: int, entry: int | None = None
) -> list[AttributeChange]:
    """Return attributes of a user's own modules, numbers or tuples and lists of them, that hold a length that changes.

    They are tried only where the grown model fails or changes its function without them, and kept only if it
    then passes the check.

    Args:
        graph: The channel graph.
        growth: Volumes that grow.
        touched: Tensors that change.
        reach: How many levels above the owners of changed tensors to look; objects that modules hold (a
            ``config``) count as belonging to their module.
        entry: Which of several entries of a tuple or list changes that equal such a length; None for all of them.
    """
    lengths = {old: news[0] for old, news in changed_lengths(graph, growth, touched).items()}
    standard = tuple(kind for kind, _ in _STANDARD)
    changes = []
    places = _ancestors(touched, reach)
    if reach:  # helpers without weights, such as a channel shuffle, stand beside the grown layers
        places += [
            f"{path}.{name}".lstrip(".")
            for path in _ancestors(touched, 1)
            for name, child in graph.model.get_submodule(path).named_children()
            if not any(True for _ in child.parameters())
        ]
    for path in dict.fromkeys(places):
        module = graph.model.get_submodule(path)
        if isinstance(module, standard):
            continue
        for name, value in vars(module).items():
            new = _followed(value, lengths, entry)
            if new != value and not name.startswith("_"):
                changes.append(AttributeChange(path, name, value, new))
    return changes


def _followed(value: Any, lengths: Mapping[int, int], entry: int | None) -> Any:
    """A size, or several, after a growth; anything else as it is."""
    if type(value) is int:
        return lengths.get(value, value)
    if type(value) not in (tuple, list) or len(value) > _MOST_SIZES or not all(type(n) is int for n in value):
        return value
    places = [at for at, size in enumerate(value) if size in lengths]
    if entry is not None and len(places) > 1:
        places = places[entry : entry + 1]
    return type(value)(lengths[size] if at in places else size for at, size in enumerate(value))


def changed_lengths(graph: ChannelGraph, growth: Mapping[Var, UnitMap], touched: list[str]) -> dict[int, list[int]]:
    """Return the lengths of dimensions, and of stretches of them, that change: before → after.

    One length may become several: hidden units and heads that were as many grow differently. Whole dimensions come
    first, then parts of them.
    """
    found: list[tuple[int, int]] = []
    for name in touched:
        for expr in graph.trace.spaces[name]:
            layout = layout_of(expr, growth)
            if not layout.grows:
                continue
            found.append((layout.size, layout.new_size))
            for segment in resolve(expr):
                tails = [layout_of((segment[start:],), growth) for start in range(len(segment))]
                found += [(tail.size, tail.new_size) for tail in tails if tail.grows]
    found += [(var.size, layout.new_size) for var, layout in growth.items()]
    found += changed_counts(graph, growth, touched).items()  # all heads, where each of some serves several
    lengths: dict[int, list[int]] = {}
    for old, new in dict.fromkeys(found):
        if old > 1:
            lengths.setdefault(old, []).append(new)
    return lengths


def changed_counts(graph: ChannelGraph, growth: Mapping[Var, UnitMap], touched: list[str]) -> dict[int, int]:
    """Return the numbers of units, such as heads, that change where a dimension has so many: before → after."""
    counts: dict[int, int] = {}
    for name in touched:
        for segment in (segment for expr in graph.trace.spaces[name] for segment in resolve(expr)):
            for end in range(1, len(segment)):
                outer = layout_of((segment[:end],), growth)
                if outer.grows:
                    counts.setdefault(outer.size, outer.new_size)
    return counts


def _ancestors(touched: list[str], reach: int) -> list[str]:
    found: dict[str, None] = {}
    for name in touched:
        path = name.rpartition(".")[0]
        for _ in range(reach + 1):
            found.setdefault(path)
            if not path:
                break
            path = path.rpartition(".")[0]
    return list(found)
