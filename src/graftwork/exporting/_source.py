"""A genome as plain PyTorch: the text of ``model.py``.

One convolution per layer and kernel size holds the filters of all its blocks, in the order in which the fused form
runs them, so the plain network computes what the fused member does. `plain_tensors` makes the weights for it.
"""

import textwrap
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from torch import Tensor, nn

from graftwork.networks.execution import InputTransform, Segment
from graftwork.networks.genome import Block, Genome, Layer, Pool, summary
from graftwork.typing import Activation, Norm, Shape

LINE_LENGTH = 120

ACTIVATION_MODULES: dict[Activation, str] = {
    "relu": "nn.ReLU()",
    "gelu": "nn.GELU()",
    "silu": "nn.SiLU()",
    "leaky_relu": "nn.LeakyReLU()",
    "tanh": "nn.Tanh()",
}

RESIDUAL_NORMS: dict[Norm, str] = {
    "batch": "nn.BatchNorm2d(width)",
    "instance": "nn.GroupNorm(width, width)",
    "layer": "norm",
    "none": "",
}

POOLED = {"none": "x.flatten(1)", "avg": "x.mean(dim=(2, 3))", "max": "x.amax(dim=(2, 3))"}

IMAGE_MODES = {1: "L", 3: "RGB"}
"""Channels → Pillow's mode; images of other kinds can't be read from files."""


def fused_blocks(layer: Layer) -> dict[int, list[Block]]:
    """Kernel size → blocks of a layer, in the order of the fused form."""
    sizes = sorted({block.kernel_size for block in layer.blocks})
    return {size: [block for block in layer.blocks if block.kernel_size == size] for size in sizes}


def halves(widths: Sequence[int]) -> list[int]:
    """Channels of the twin halves of volumes side by side."""
    return [width // 2 for width in widths for _ in range(2)]


def _norm_module(norm: Norm, widths: Sequence[int], *, dimensions: int = 2) -> str | None:
    """The module that normalises volumes of some widths side by side; ``None`` without a norm."""
    width, groups = sum(widths), halves(widths)
    if norm == "none":
        return None
    if norm == "batch":
        return f"nn.BatchNorm{dimensions}d({width})"
    if norm == "instance":
        return f"nn.GroupNorm({width}, {width})"
    if len(set(groups)) == 1:
        return f"nn.GroupNorm({len(groups)}, {width})"
    return f"SplitNorm({', '.join(map(str, groups))})"


def _stem_lines(genome: Genome) -> list[str]:
    stem = genome.stem
    if stem.kind == "none":
        return []
    norm = _norm_module(genome.norm, [stem.out_channels]) if stem.kind == "conv" else None
    moved = "".join(
        f", {name}={value}"
        for name, value, plain in (("stride", stem.stride, 1), ("padding", stem.padding, 0))
        if value != plain
    )
    bias = ", bias=False" if norm else ""
    convolution = f"nn.Conv2d({genome.input_shape[0]}, {stem.out_channels}, {stem.kernel_size}{moved}{bias})"
    return [line for line in (convolution, norm, ACTIVATION_MODULES[genome.activation]) if line]


def _body_lines(genome: Genome, start: int = 0, stop: int | None = None) -> list[str]:
    """One line an item, and comments, of the items from ``start`` to before ``stop``."""
    lines = []
    for step in list(genome.steps())[start:stop]:
        if isinstance(step.item, Pool):
            lines.append(f"nn.{'Max' if step.item.kind == 'max' else 'Avg'}Pool2d({step.item.size}),")
            continue
        fused = fused_blocks(step.item)
        blocks = [block for group in fused.values() for block in group]
        ids = f"{'block' if len(blocks) == 1 else 'blocks'} {', '.join(block.id for block in blocks)}"
        lines += textwrap.wrap(ids, LINE_LENGTH - 20, initial_indent="# ", subsequent_indent="# ")
        hidden = {size: sum(block.hidden_channels for block in group) for size, group in fused.items()}
        norm = _norm_module(genome.norm, [block.hidden_channels for block in blocks])
        extra = f", {norm}" if genome.norm == "layer" else ""
        lines.append(f"Residual({step.in_shape[0]}, {step.item.out_channels}, {hidden}{extra}),")
    return lines


def _head_lines(genome: Genome) -> list[str]:
    head, features, classes = genome.head, genome.head_features, genome.num_classes
    if head.kind == "linear":
        return [f"nn.Linear({features}, {classes})"]
    norm = _norm_module(genome.norm, [head.hidden_features], dimensions=1) if head.kind == "r2r" else None
    first = f"nn.Linear({features}, {head.hidden_features}{', bias=False' if norm else ''})"
    last = f"nn.Linear({head.hidden_features}, {classes})"
    return [line for line in (first, norm, ACTIVATION_MODULES[genome.activation], last) if line]


def _literal(value: object) -> str:
    """A Python literal, with double quotes where that needs no escapes."""
    text = repr(value)
    return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text and "\\'" not in text else text


def _assignment(name: str, values: Sequence[object]) -> str:
    """``name = (…)``, on one line where it fits."""
    texts = [_literal(value) for value in values]
    line = f"{name} = ({', '.join(texts)}{',' if len(texts) == 1 else ''})"
    if len(line) <= LINE_LENGTH:
        return line
    return "\n".join([f"{name} = (", *(f"    {text}," for text in texts), ")"])


def template(name: str) -> Template:
    """A template of this folder, by the name of its file."""
    environment = Environment(
        loader=PackageLoader("graftwork.exporting", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - it writes Python; every value is a literal made here
    )
    return environment.get_template(name)


def _common(
    genome: Genome, transform: InputTransform, class_names: Sequence[str], body: Sequence[str], *, of_features: bool
) -> dict[str, Any]:
    """What the templates of one network and of an ensemble fill in alike; ``body``: lines of all items."""
    return {
        "margin": 'float("inf")' if of_features else 0.5,
        "genome": genome,
        "shape": genome.input_shape,
        "mode": IMAGE_MODES.get(genome.input_shape[0]),
        "classes": _assignment("CLASSES", [str(name) for name in class_names]),
        "mean": _assignment("MEAN", [float(value) for value in transform.mean]),
        "std": _assignment("STD", [float(value) for value in transform.std]),
        "split_norm": any("SplitNorm" in line for line in body),
        "norm_argument": ", norm: nn.Module" if genome.norm == "layer" else "",
        "residual_norm": RESIDUAL_NORMS[genome.norm],
        "no_bias": "" if genome.norm == "none" else ", bias=False",
        "activation": ACTIVATION_MODULES[genome.activation],
        "pooled": POOLED[genome.head.pooling],
        "fixed_stem": genome.stem.kind == "whiten",
    }


def render_source(
    genome: Genome,
    transform: InputTransform,
    class_names: Sequence[str],
    *,
    version: str,
    of_features: bool = False,
) -> str:
    """The text of ``model.py``.

    Args:
        genome: Genome of the member.
        transform: How images are normalised; mean and std become constants of the file.
        class_names: Name of each class, in the order of the logits.
        version: Version of graftwork, for the file's header.
        of_features: Whether it reads features, which have any scale.
    """
    body = _body_lines(genome)
    text = template("model.py.jinja").render(
        version=version,
        summary=summary(genome),
        stem=_stem_lines(genome),
        body=body,
        head=_head_lines(genome),
        **_common(genome, transform, class_names, body, of_features=of_features),
    )
    return text.rstrip("\n") + "\n"


def render_preprocessing(shape: Shape, class_names: Sequence[str], *, version: str) -> str | None:
    """The text of ``preprocess.py``; ``None`` where images have neither 1 nor 3 channels, as no file holds them.

    Args:
        shape: Channels, height and width of the input.
        class_names: Name of each class, in the order of the outputs.
        version: Version of graftwork, for the file's header.
    """
    if shape[0] not in IMAGE_MODES:
        return None
    classes = _assignment("CLASSES", [str(name) for name in class_names])
    return template("preprocess.py.jinja").render(
        version=version, shape=shape, mode=IMAGE_MODES[shape[0]], classes=classes
    )


def render_ensemble(
    genomes: Sequence[Genome],
    segments: Sequence[Segment],
    combiner: Mapping[str, Any],
    *,
    without_last: bool,
    transform: InputTransform,
    class_names: Sequence[str],
    version: str,
    of_features: bool = False,
) -> str:
    """The text of ``model.py`` for an ensemble.

    Args:
        genomes: Genomes of the members, which agree on input, stem, activation, norm and head.
        segments: The trie of the members.
        combiner: The combiner's description as plain data.
        without_last: Whether the combiner reads what the last linear layers would receive.
        transform: How images are normalised; mean and std become constants of the file.
        class_names: Name of each class, in the order of the outputs.
        version: Version of graftwork, for the file's header.
        of_features: Whether members read features, which have any scale.
    """
    first = genomes[0]
    lines = []
    for segment in segments:
        genome = genomes[segment.members[0]]
        stem = [f"{line}," for line in _stem_lines(genome)] if segment.parent is None else []
        lines.append(stem + _body_lines(genome, segment.start, segment.stop))
    leaves = {index: number for number, segment in enumerate(segments) for index in segment.ends}
    inner = combiner["combiner"] if combiner["kind"] == "temperature" else combiner
    text = template("ensemble.py.jinja").render(
        version=version,
        num_members=len(genomes),
        members=[f"{genome.id}: {summary(genome)}" for genome in genomes],
        segments=lines,
        heads=[_head_lines(genome)[: -1 if without_last else None] for genome in genomes],
        parents=_assignment("PARENTS", [segment.parent for segment in segments]),
        leaves=_assignment("LEAVES", [leaves[index] for index in range(len(genomes))]),
        scaled="" if first.head.scale == 1 or without_last else f" * {first.head.scale}",
        kinds={combiner["kind"], inner["kind"]},
        paths=_assignment("PATHS", _paths(segments, [leaves[index] for index in range(len(genomes))])),
        residual=inner.get("residual", False),
        log_probabilities=inner.get("log_probabilities", False),
        combiner=_combiner_text(combiner),
        **_common(first, transform, class_names, [line for part in lines for line in part], of_features=of_features),
    )
    return text.rstrip("\n") + "\n"


def _paths(segments: Sequence[Segment], leaves: Sequence[int]) -> list[list[int]]:
    """Segments from the images to each leaf."""
    paths = []
    for leaf in leaves:
        path, at = list[int](), segments[leaf].parent
        while at is not None:
            path.append(at)
            at = segments[at].parent
        paths.append([*path[::-1], leaf])
    return paths


def _combiner_text(combiner: Mapping[str, Any]) -> str:
    if combiner["kind"] == "temperature":
        return f"TemperatureCombiner({_combiner_text(combiner['combiner'])})"
    if combiner["kind"] in ("mean", "cascade"):
        return f"{combiner['kind'].capitalize()}Combiner({combiner['num_members']})"
    middle = ["hidden_features"] if combiner["kind"] == "network" else []
    sizes = [combiner[key] for key in ("num_members", "num_features", *middle, "num_classes")]
    return f"{combiner['kind'].capitalize()}Combiner({', '.join(map(str, sizes))})"


def load_source(text: str) -> ModuleType:
    """The module that `render_source` wrote, without a file."""
    module = ModuleType("graftwork_export")
    module.__file__ = "model.py"
    exec(compile(text, "model.py", "exec"), module.__dict__)  # noqa: S102 - the text was made by render_source
    return module


def plain_network(source: str, tensors: dict[str, Tensor], *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network of ``model.py`` with its weights, in evaluation mode."""
    network: Any = load_source(source).Network()
    network.to(dtype).load_state_dict(tensors)
    return network.eval()  # type: ignore[no-any-return]
