"""Which dimensions of which tensors run along a model's outputs, or along its inputs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._parametrized import REMOVE, computed_by
from graftwork.surgery._space import Expr, Var, atoms, resolve
from graftwork.surgery._trace import INPUT, LOOKED_UP, OUTPUT
from graftwork.surgery.interface._grown import InputDim

ZERO, MEAN = "zero", "mean"
INITS = (ZERO, MEAN)
_TABLES = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class Place:
    """A dimension of a tensor that gets longer.

    Attributes:
        name: Parameter or buffer.
        dim: Dimension.
        fill: What the new entries hold: ``"zero"``, or the ``"mean"`` of the old ones along the dimension.
        role: ``"makes"`` or ``"reads"``, for a printed plan.
        volume: What grows in a dimension that is made of several (inputs beside other channels). None for a dimension
            that grows at its end.
    """

    name: str
    dim: int
    fill: str
    role: str = "makes"
    volume: Var | None = None


@dataclass(frozen=True)
class Places:
    """Everything in a model that runs along some of its outputs or inputs.

    Attributes:
        sites: The modules that were meant.
        size: Number of outputs, tokens or channels before.
        places: The dimensions that grow.
        inputs: Dimensions of the call's tensors that grow along.
        reach_outputs: Whether new outputs come out.
    """

    sites: tuple[str, ...]
    size: int
    places: tuple[Place, ...]
    inputs: tuple[InputDim, ...] = ()
    reach_outputs: bool = False


# -- outputs
# ---------------------------------------------------------------------------------------------------------------


def output_places(graph: ChannelGraph, sites: Sequence[str], init: str) -> Places:
    """Return what has to grow for a model to give more outputs, or to know more tokens.

    Args:
        graph: The traced model.
        sites: Heads and embeddings that have as many rows; none for the only head.
        init: What new rows hold.

    Raises:
        SurgeryError: A site makes no outputs, or the outputs that are there would change with it.
    """
    named = tuple(sites) or (_only_head(graph),)
    found: dict[tuple[str, int], Place] = {}
    sizes: dict[str, int] = {}
    tables = {name for path in named if (name := _table(graph, path)) is not None}
    heads = False
    for site in named:
        name, dim = _rows(graph, site)
        sizes[site] = graph.trace.tensors[name].shape[dim]
        var = _volume(graph, site, name, dim)
        if var is None:
            found |= {(p.name, p.dim): p for p in _single_rows(graph, site, name, dim, init)}
            heads = heads or name not in tables
            continue
        made = any(reason.text == OUTPUT for reason in var.reasons)
        if name not in tables and not made:
            raise SurgeryError(
                f"site: expected a head, whose rows are outputs of the model, or an embedding, got {site!r}, whose "
                "channels stay inside; graftwork.Widen grows those"
            )
        _refuse_reasons(site, var, OUTPUT, LOOKED_UP)
        heads = heads or made
        found |= {(p.name, p.dim): p for p in _along(graph, site, var, carried=init, made=init)}
    if len(set(sizes.values())) > 1:
        raise SurgeryError(f"site: expected places that have as many rows, got {sizes}; grow them one by one")
    _refuse_two_dims(found.values())
    return Places(named, next(iter(sizes.values())), tuple(found.values()), reach_outputs=heads)


def _table(graph: ChannelGraph, site: str) -> str | None:
    """Name of the tensor of an embedding; None where the site is none."""
    module = dict(graph.model.named_modules()).get(site)
    if not isinstance(module, _TABLES):
        return None
    names = {id(tensor): name for name, tensor in graph.trace.tensors.items()}
    return names.get(id(module.weight))


def _rows(graph: ChannelGraph, site: str) -> tuple[str, int]:
    table = _table(graph, site)
    return (table, 0) if table is not None else graph.find(site)


def is_head(graph: ChannelGraph, name: str) -> bool:
    """Whether the rows of a tensor come out of the model, or did not run and may be a head for other runs."""
    volumes = atoms(graph.trace.spaces[name][0])
    return not graph.trace.uses[name] or any(reason.text == OUTPUT for var in volumes for reason in var.reasons)


def _only_head(graph: ChannelGraph) -> str:
    heads: dict[Var, str] = {}
    for (name, dim), path in graph.trace.outputs.items():
        for var in atoms(graph.trace.spaces[name][dim]):
            if any(reason.text == OUTPUT for reason in var.reasons):
                heads.setdefault(var, path or name)
    # Hidden states that come out as well run through norms; a head does not.
    clean = {var: path for var, path in heads.items() if _allows(var, (OUTPUT, LOOKED_UP))}
    clean = clean or {var: path for var, path in heads.items() if any("softmax" in r.text for r in var.reasons)}
    found = list(dict.fromkeys(clean.values()))  # the rows of one may be several volumes
    if len(found) != 1:
        got = f"a model with several, {found[:6]}"
        if not clean:
            why = [f"{path!r}: {r.text}" for var, path in heads.items() for r in var.reasons if r.text != OUTPUT]
            got = f"a model in which none was found{f' (what comes out is made by {why[0]})' if why else ''}"
        raise SurgeryError(f"site: expected the path of a head, or None where there is only one, got {got}; name it")
    return found[0]


def _single_rows(graph: ChannelGraph, site: str, name: str, dim: int, init: str) -> Iterable[Place]:
    """A head with one output: a dimension of one has no volume that could be followed."""
    yield Place(name, dim, init)
    bias = f"{name.rpartition('.')[0]}.bias".lstrip(".")
    if name.endswith("weight") and bias in graph.trace.tensors and graph.trace.tensors[bias].shape == (1,):
        yield Place(bias, 0, init)


# -- inputs
# ----------------------------------------------------------------------------------------------------------------


def input_places(graph: ChannelGraph, site: str | None) -> Places:
    """Return what has to grow for a model to take more channels or features.

    Args:
        graph: The traced model.
        site: The module that reads the input; None for the only one.

    Raises:
        SurgeryError: The site reads no input of the model, or what comes out would change.
    """
    path = _only_reader(graph) if site is None else site
    name, dim = _columns(graph, path)
    size = graph.trace.tensors[name].shape[dim]
    var = _volume(graph, path, name, dim)
    if var is None:
        return Places((path,), size, (Place(name, dim, ZERO, "reads"),), inputs=(_single_input(graph, path),))
    if not any(reason.text == INPUT for reason in var.reasons):
        raise SurgeryError(
            f"site: expected a module that reads the model's input, got {path!r}, whose input is made inside; "
            "graftwork.Widen grows what makes it"
        )
    _refuse_reasons(path, var, INPUT)
    places = tuple(_along(graph, path, var, carried=MEAN, made=MEAN, parts=True))
    _refuse_two_dims(places)
    dims = [
        InputDim(leaf, at)
        for leaf, exprs in enumerate(graph.trace.taken)
        for at, expr in enumerate(exprs)
        if any(atom is var for atom in atoms(expr))
    ]
    return Places((path,), size, places, inputs=tuple(dims))


def _only_reader(graph: ChannelGraph) -> str:
    found: dict[int, str] = {}
    for name, uses in graph.trace.uses.items():
        for use in uses:
            for var in atoms(use.expr) if use.consumed else ():
                if any(reason.text == INPUT for reason in var.reasons):
                    found.setdefault(id(var), name.rpartition(".")[0])
    if len(found) != 1:
        got = f"a model with several, {list(found.values())[:6]}" if found else "a model in which none was found"
        raise SurgeryError(
            f"site: expected the path of what reads the input, or None where that is one module, got {got}; name it"
        )
    return next(iter(found.values()))


def _columns(graph: ChannelGraph, site: str) -> tuple[str, int]:
    module = dict(graph.model.named_modules()).get(site)
    conv = isinstance(module, nn.modules.conv._ConvNd)  # noqa: SLF001 - the base of all convolutions
    dim = None
    if conv and module.groups == 1:  # type: ignore[union-attr]
        dim = 0 if module.transposed else 1  # type: ignore[union-attr]
    elif isinstance(module, nn.Linear):
        dim = 1
    elif type(module).__name__ == "Conv1D":
        dim = 0
    names = {id(tensor): name for name, tensor in graph.trace.tensors.items()}
    name = names.get(id(getattr(module, "weight", None)))
    if dim is None or name is None:
        what = f"a {type(module).__name__}{' with groups' if conv else ''}" if module is not None else "no module"
        raise SurgeryError(f"site: expected a linear map or a convolution without groups, got {site!r}, {what}")
    return name, dim


def _single_input(graph: ChannelGraph, site: str) -> InputDim:
    """The one channel that a module reads, looked for in the call's tensors by its place."""
    module = graph.model.get_submodule(site)
    back = -len(module.kernel_size) - 1 if isinstance(module, nn.modules.conv._ConvNd) else -1  # noqa: SLF001
    sizes = [[sum(len(segment) for segment in expr) for expr in exprs] for exprs in graph.trace.taken]
    fitting = [(i, len(s) + back) for i, s in enumerate(sizes) if len(s) >= -back and s[back] == 0]
    if len(fitting) != 1:
        raise SurgeryError(
            f"{site!r} can't get new channels: expected one tensor of the example whose dimension {back} is 1, got "
            f"{len(fitting)}"
        )
    return InputDim(*fitting[0])


# -- both
# ------------------------------------------------------------------------------------------------------------------


def _volume(graph: ChannelGraph, site: str, name: str, dim: int) -> Var | None:
    """The one volume of a dimension; None for a dimension of one."""
    expr = resolve(graph.trace.spaces[name][dim])
    _refuse_computed(graph, site, name)
    if graph.trace.tensors[name].shape[dim] == 1:
        return None
    if not _is_whole(expr):
        raise SurgeryError(
            f"{site!r} can't get new ones: its {graph.trace.tensors[name].shape[dim]} rows are made of several "
            "dimensions (groups, heads, slices, anchors × classes), and new ones at the end would mean something else"
        )
    return expr[0][0]


def _refuse_computed(graph: ChannelGraph, site: str, name: str) -> None:
    """Refuse a weight that is computed from what would grow: a norm of zero rows is none."""
    module = graph.model.get_submodule(name.rpartition(".")[0].partition("parametrizations")[0].rstrip("."))
    how = computed_by(module)
    hooks = {type(hook).__name__ for hook in module._forward_pre_hooks.values()}  # noqa: SLF001 - older reparametrizations
    if how or hooks & {"WeightNorm", "SpectralNorm"}:
        raise SurgeryError(
            f"{site!r} can't get new ones: its weight is computed {how or f'by {sorted(hooks)}: {REMOVE}'}"
        )


def _is_whole(expr: Expr) -> bool:
    expr = resolve(expr)
    return len(expr) == 1 and len(expr[0]) == 1 and expr[0][0].bound is None


def _allows(var: Var, allowed: tuple[str, ...]) -> bool:
    return all(reason.text.startswith(allowed) for reason in var.reasons)


def _refuse_reasons(site: str, var: Var, *allowed: str) -> None:
    """Refuse what would change the part that is there: a softmax over the classes, a constant for each channel."""
    for reason in var.reasons:
        if not reason.text.startswith(allowed):
            loss = "softmax" in reason.text
            hint = (
                "; where that is the loss, leave the labels out of example_input, where the model returns "
                "probabilities, grow the part of it that returns logits"
            )
            raise SurgeryError(
                f"{site!r} can't get new ones without changing what is there: {reason.text}{hint if loss else ''}"
            )


def _along(
    graph: ChannelGraph, site: str, var: Var, *, carried: str, made: str, parts: bool = False
) -> Iterable[Place]:
    """Every dimension of a tensor that a volume runs along, also where it is a part of it (``parts``)."""
    graph.refuse_left_behind([var])
    for name in graph.touched([var]):
        for dim, expr in enumerate(graph.trace.spaces[name]):
            if not any(atom is var for atom in atoms(expr)):
                continue
            _refuse_computed(graph, site, name)
            whole = _is_whole(expr)
            if not (whole or parts):
                raise SurgeryError(
                    f"{site!r} can't get new ones: {name!r} holds them beside or within another dimension "
                    "(concatenated, flattened), so that new ones would not stand at its end"
                )
            owner = graph.model.get_submodule(name.rpartition(".")[0])
            norm = isinstance(owner, (nn.modules.batchnorm._NormBase, nn.GroupNorm))  # noqa: SLF001 - the base
            if norm and made != MEAN:
                raise SurgeryError(
                    f"{site!r} can't get new ones that start at zero: {name!r} normalizes them; take init='mean'"
                )
            if any(use.consumed and use.dim == dim for use in graph.trace.uses[name]):
                yield Place(name, dim, ZERO, "reads", None if whole else var)
            else:
                yield Place(name, dim, carried, "makes", None if whole else var)


def _refuse_two_dims(places: Iterable[Place]) -> None:
    seen: set[str] = set()
    for place in places:
        if place.name in seen:
            raise SurgeryError(f"{place.name!r} can't grow along two of its dimensions at once")
        seen.add(place.name)
