"""Fixed sizes of the poster's family, and seeds of the wrong size."""

from collections.abc import Callable, Mapping
from functools import partial

from graftwork.networks.genome import Block, Genome, Head, Layer, Pool
from graftwork.typing import BlockId, Shape


def shaped(
    input_shape: Shape,
    num_classes: int,
    *,
    width: int = 16,
    per_stage: int = 1,
    kernel_size: int = 3,
    late_pools: bool = False,
) -> Genome:
    """A network of the poster's family: three stages, each twice as wide as the one before, FC 128, FC classes.

    Args:
        input_shape: Channels, height and width of the images.
        num_classes: Number of classes.
        width: Channels of the first stage; blocks have half as many hidden ones.
        per_stage: Layers in each stage.
        kernel_size: Kernel size of every block.
        late_pools: Whether all pools stand at the end, instead of one behind each stage.
    """
    layers: list[Layer | Pool] = []
    pools: list[Layer | Pool] = []
    channels, side = max(width, input_shape[0]), min(input_shape[1:])
    for stage in range(3):
        hidden = max(2, 2 * (channels // 4))
        names = (BlockId(f"seed-{stage}-{number}") for number in range(per_stage))
        layers += [Layer(channels, (Block(name, kernel_size, hidden, 0, channels),)) for name in names]
        if side >= 2:
            (pools if late_pools else layers).append(Pool("max", 2))
            side //= 2
        channels *= 2
    return Genome(input_shape, num_classes, (*layers, *pools), head=Head("mlp", hidden_features=128))


MISFITS: Mapping[str, Callable[[Shape, int], Genome]] = {
    "poster": shaped,
    "half-width": partial(shaped, width=8),
    "double-width": partial(shaped, width=32),
    "no-early-pooling": partial(shaped, late_pools=True),
    "1x1-only": partial(shaped, kernel_size=1),
    "too-deep": partial(shaped, per_stage=4),
}
"""Seeds of the wrong size, by name."""

SIZES: Mapping[str, Callable[[Shape, int], Genome]] = {
    f"width-{width}x{depth}": partial(shaped, width=width, per_stage=depth)
    for width in (8, 16, 32, 64)
    for depth in (1, 2)
}
"""Fixed sizes whose best is the envelope: channels of the first stage, and layers a stage."""
