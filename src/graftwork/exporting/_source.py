"""A genome as plain PyTorch: the text of ``model.py``.

One convolution per layer and kernel size holds the filters of all its blocks, in the order in which the fused form
runs them, so the plain network computes what the fused member does. `plain_tensors` makes the weights for it.
"""

import textwrap
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor, nn

from graftwork.execution import InputTransform
from graftwork.genome import Block, Genome, Layer, Pool, summary
from graftwork.typing import Activation, Norm

__all__ = ["fused_blocks", "halves", "load_source", "plain_network", "render_source"]

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
    padding = f", padding={stem.padding}" if stem.padding else ""
    bias = ", bias=False" if norm else ""
    convolution = f"nn.Conv2d({genome.input_shape[0]}, {stem.out_channels}, {stem.kernel_size}{padding}{bias})"
    return [line for line in (convolution, norm, ACTIVATION_MODULES[genome.activation]) if line]


def _body_lines(genome: Genome) -> list[str]:
    lines = []
    for step in genome.steps():
        if isinstance(step.item, Pool):
            lines.append(f"nn.{'Max' if step.item.kind == 'max' else 'Avg'}Pool2d({step.item.size}),")
            continue
        fused = fused_blocks(step.item)
        blocks = [block for group in fused.values() for block in group]
        ids = f"{'block' if len(blocks) == 1 else 'blocks'} {', '.join(block.id for block in blocks)}"
        lines += textwrap.wrap(ids, LINE_LENGTH - 16, initial_indent="# ", subsequent_indent="# ")
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


def render_source(genome: Genome, transform: InputTransform, class_names: Sequence[str], *, version: str) -> str:
    """The text of ``model.py``.

    Args:
        genome: Of the member.
        transform: Its mean and std become constants of the file.
        class_names: One for each class, in the order of the logits.
        version: Of graftwork, for the file's header.
    """
    environment = Environment(
        loader=PackageLoader("graftwork.exporting", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - it writes Python; every value is a literal made here
    )
    body = _body_lines(genome)
    text = environment.get_template("model.py.jinja").render(
        version=version,
        summary=summary(genome),
        genome=genome,
        shape=genome.input_shape,
        mode=IMAGE_MODES.get(genome.input_shape[0]),
        classes=_assignment("CLASSES", [str(name) for name in class_names]),
        mean=_assignment("MEAN", [float(value) for value in transform.mean]),
        std=_assignment("STD", [float(value) for value in transform.std]),
        split_norm=any("SplitNorm" in line for line in body),
        norm_argument=", norm: nn.Module" if genome.norm == "layer" else "",
        residual_norm=RESIDUAL_NORMS[genome.norm],
        no_bias="" if genome.norm == "none" else ", bias=False",
        activation=ACTIVATION_MODULES[genome.activation],
        stem=_stem_lines(genome),
        fixed_stem=genome.stem.kind == "whiten",
        body=body,
        head=_head_lines(genome),
    )
    return text.rstrip("\n") + "\n"


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
