"""Analytic cost of a genome. One multiply-add is 2 FLOPs; norms, activations, pools and sums are not counted.

That is the convention of PyTorch's ``FlopCounterMode``, with which the tests compare (reference form).
"""

from graftwork.networks.genome._genome import Genome
from graftwork.networks.genome._parts import Block, Layer
from graftwork.typing import BlockId, Shape

TRAINING_FACTOR = 3
"""A training step costs three forward passes: forward, gradient of activations, gradient of weights."""


def stem_flops(genome: Genome) -> int:
    """FLOPs of the stem for one image."""
    if genome.stem.kind == "none":
        return 0
    _, height, width = genome.stem_shape
    taps = genome.input_shape[0] * genome.stem.kernel_size**2
    return 2 * taps * genome.stem.out_channels * height * width


def item_flops(item: object, in_shape: Shape) -> int:
    """FLOPs of one layer (0 for a pool) for one image whose activations have ``in_shape``."""
    if not isinstance(item, Layer):
        return 0
    channels, height, width = in_shape
    per_position = sum(
        block.hidden_channels * (channels * block.kernel_size**2 + block.out_channels) for block in item.blocks
    )
    return 2 * per_position * height * width


def head_flops(genome: Genome) -> int:
    """FLOPs of the head for one image."""
    hidden = genome.head.hidden_features
    if genome.head.kind == "linear":
        return 2 * genome.head_features * genome.num_classes
    return 2 * hidden * (genome.head_features + genome.num_classes)


def flops_per_item(genome: Genome) -> tuple[int, ...]:
    """FLOPs of the stem, of each item of the body, and of the head, for one image."""
    body = (item_flops(step.item, step.in_shape) for step in genome.steps())
    return (stem_flops(genome), *body, head_flops(genome))


def forward_flops(genome: Genome) -> int:
    """FLOPs of one forward pass over one image."""
    return sum(flops_per_item(genome))


def training_flops(genome: Genome, num_examples: int = 1) -> int:
    """FLOPs of training on ``num_examples`` images: `TRAINING_FACTOR` forward passes each."""
    return TRAINING_FACTOR * num_examples * forward_flops(genome)


def _block_parameters(block: Block, in_channels: int, *, normed: bool) -> int:
    per_channel = 2 if normed else 1  # scale and shift of the norm, or the bias of the filter
    filters = block.hidden_channels * (in_channels * block.kernel_size**2 + per_channel)
    return filters + block.out_channels * (block.hidden_channels + 1)


def parameters_per_item(genome: Genome) -> tuple[int, ...]:
    """Parameters of the stem, of each item of the body, and of the head; fixed filters of a stem are counted."""
    normed = genome.norm != "none"
    stem = genome.stem
    taps = genome.input_shape[0] * stem.kernel_size**2
    first = stem.out_channels * (taps + (2 if normed and stem.kind == "conv" else 1))
    body = (
        sum(_block_parameters(block, step.in_shape[0], normed=normed) for block in step.item.blocks)
        if isinstance(step.item, Layer)
        else 0
        for step in genome.steps()
    )
    features, hidden, classes = genome.head_features, genome.head.hidden_features, genome.num_classes
    if genome.head.kind == "linear":
        last = classes * (features + 1)
    else:
        between = 2 if normed and genome.head.kind == "r2r" else 1
        last = hidden * (features + between) + classes * (hidden + 1)
    return (0 if stem.kind == "none" else first, *body, last)


def parameters_per_entry(genome: Genome) -> dict[BlockId, int]:
    """Parameters of each bank entry that the network uses: shared ones can then be counted once."""
    counts, normed = parameters_per_item(genome), genome.norm != "none"
    found = {genome.head.id: counts[-1]}
    if genome.stem.kind != "none":
        found[genome.stem.id] = counts[0]
    for step in genome.steps():
        for block in step.item.blocks if isinstance(step.item, Layer) else ():
            found[block.id] = _block_parameters(block, step.in_shape[0], normed=normed)
    return found


def num_parameters(genome: Genome) -> int:
    """Number of weights that the network uses."""
    return sum(parameters_per_item(genome))


def receptive_field(genome: Genome) -> int:
    """Side, in pixels, of the square of the input that one position before the head can see."""
    field, stride = 1, 1
    if genome.stem.kind != "none":
        field += genome.stem.kernel_size - 1
        stride = genome.stem.stride
    for item in genome.body:
        size = max(block.kernel_size for block in item.blocks) if isinstance(item, Layer) else item.size
        field += (size - 1) * stride
        stride *= 1 if isinstance(item, Layer) else item.size
    return field
