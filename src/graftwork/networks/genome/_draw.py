"""A genome as text, and the difference of two."""

from graftwork.networks.genome._cost import (
    flops_per_item,
    forward_flops,
    num_parameters,
    parameters_per_item,
    receptive_field,
)
from graftwork.networks.genome._genome import Genome
from graftwork.networks.genome._parts import Block, Layer, Pool


def summary(genome: Genome) -> str:
    """One line: size, depth and cost."""
    blocks = sum(1 for _ in genome.blocks())
    return (
        f"{len(genome.layers)} layers, {blocks} blocks, {num_parameters(genome):,} parameters, "
        f"{forward_flops(genome) / 1e6:.2f} MFLOPs"
    )


def _block_text(block: Block, layer: Layer) -> str:
    where = "" if block.out_channels == layer.out_channels else f" → [{block.start}:{block.stop}]"
    return f"{block.kernel_size}×{block.kernel_size}·{block.hidden_channels}{where} ({block.id})"


def _item_text(item: Layer | Pool) -> str:
    if isinstance(item, Pool):
        return f"{item.kind}-pool {item.size}×{item.size}"
    return "x + " + " + ".join(_block_text(block, item) for block in item.blocks)


def draw(genome: Genome) -> str:
    """The network as a table of text: one line an item, with shapes, parameters and FLOPs."""
    flops, parameters = flops_per_item(genome), parameters_per_item(genome)
    rows = [("", "input", genome.input_shape, 0, 0)]
    if genome.stem.kind != "none":
        text = f"{genome.stem.kind} {genome.stem.kernel_size}×{genome.stem.kernel_size} ({genome.stem.id})"
        rows.append(("stem", text, genome.stem_shape, parameters[0], flops[0]))
    for step in genome.steps():
        cost = parameters[step.position + 1], flops[step.position + 1]
        rows.append((str(step.position), _item_text(step.item), step.out_shape, *cost))
    hidden = f" {genome.head.hidden_features}" if genome.head.hidden_features else ""
    pooling = "flatten" if genome.head.pooling == "none" else f"{genome.head.pooling}-pool"
    text = f"{pooling}, {genome.head.kind}{hidden} ({genome.head.id})"
    rows.append(("head", text, (genome.num_classes, 1, 1), parameters[-1], flops[-1]))
    width = max(len(row[1]) for row in rows)
    lines = [
        f"{name:>4}  {text:<{width}}  {'×'.join(map(str, shape)):>11}  {count:>11,}  {cost / 1e6:>9.3f} MFLOPs"
        for name, text, shape, count, cost in rows
    ]
    last = f"{summary(genome)}; {genome.activation}, {genome.norm} norm, sees {receptive_field(genome)} pixels"
    return "\n".join([*lines, last])


def _common_text(genome: Genome, others: set[Block]) -> str:
    """The body in order, without the blocks that only this genome has: what growth leaves alone."""
    texts = []
    for item in genome.body:
        if isinstance(item, Pool):
            texts.append(_item_text(item))
            continue
        ids = [block.id for block in item.blocks if block in others]
        if ids:
            texts.append(f"{' + '.join(ids)} ({item.out_channels} channels)")
    return ", ".join(texts)


def diff(parent: Genome, child: Genome) -> str:
    """What ``child`` has and ``parent`` lacks (lines of ``+``), and the reverse (lines of ``-``).

    Layers are matched by the blocks that they share; an empty string means that the two are equal.
    """
    lines = [
        f"- {name}: {getattr(parent, name)}\n+ {name}: {getattr(child, name)}"
        for name in ("input_shape", "num_classes", "activation", "norm", "stem", "head")
        if getattr(parent, name) != getattr(child, name)
    ]
    old, new = set(parent.blocks()), set(child.blocks())
    for sign, genome, others in (("-", parent, new), ("+", child, old)):
        for index, item in enumerate(genome.body):
            if isinstance(item, Pool):
                continue
            fresh = [block for block in item.blocks if block not in others]
            kind = "layer" if len(fresh) == len(item.blocks) else "in layer"
            lines += [f"{sign} {kind} {index}: {_block_text(block, item)}" for block in fresh]
    before, after = _common_text(parent, new), _common_text(child, old)
    if before != after:
        lines.append(f"- order: {before}\n+ order: {after}")
    return "\n".join(lines)
