"""A genome as a picture: layers as columns of blocks over the residual line."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from graftwork.networks.genome import Block, Genome, Layer, Pool, Step, summary
from graftwork.reports._style import (
    FAINT,
    INK,
    KERNELS,
    MUTED,
    NEUTRAL,
    PAPER,
    canvas,
    generation_colors,
    styled,
)
from graftwork.typing import BlockId

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_ON_TINT = "#18202a"  # text on a kernel's tint, which is the same on a dark page
_COLUMN, _BLOCK, _GAP, _POOL, _END = 72.0, 50.0, 4.0, 30.0, 52.0
_TOP, _BELOW, _LEGEND = 34.0, 40.0, 24.0


@styled
def genome_figure(genome: Genome, *, title: str, grafted: Mapping[BlockId, int | None], generations: int) -> "Figure":
    """Draw one genome: kernel size as color, hidden channels as height, generation of the graft as a tab.

    Args:
        genome: what to draw.
        title: stands above it.
        grafted: generation of each block, see `graft_generations`; None: unknown.
        generations: number of the search's last generation, which sets the scale of the tabs' colors.
    """
    scale = _scale(genome)
    tallest = max(_stack_height(layer, scale) for layer in genome.layers)
    ends = _END * (2 if genome.stem.kind == "none" else 3)
    width = ends + sum(_COLUMN if isinstance(item, Layer) else _POOL for item in genome.body) + 24
    line = _TOP + tallest + 16
    figure, axes = canvas(max(width, 372), line + _BELOW + _LEGEND)
    axes.text(10, 13, title, fontsize=9.5, fontweight="bold", va="center")
    axes.text(10, 26, summary(genome), fontsize=7.2, color=MUTED, va="center")
    shades = generation_colors(generations)
    x = 12.0
    axes.annotate("", (width - 30, line), (x, line), arrowprops={"arrowstyle": "-", "color": INK, "lw": 1.4}, zorder=1)
    channels, height, side = genome.input_shape
    x = _box(axes, x, line, "input", f"{channels}×{height}×{side}")
    if genome.stem.kind != "none":
        size = genome.stem.kernel_size
        reduced = f" /{genome.stem.stride}" if genome.stem.stride > 1 else ""
        x = _box(axes, x, line, genome.stem.kind, f"{size}×{size}·{genome.stem.out_channels}{reduced}")
    for step in genome.steps():
        if isinstance(step.item, Pool):
            x = _pool(axes, x, line, step)
        else:
            x = _layer(axes, x, line, step, step.item, scale=scale, grafted=grafted, shades=shades)
    pooling = "" if genome.head.pooling == "none" else f"{genome.head.pooling}, "
    hidden = f"{genome.head.hidden_features}·" if genome.head.hidden_features else ""
    _box(axes, x, line, "head", f"{pooling}{genome.head.kind}\n{hidden}{genome.num_classes}")
    _legend(axes, genome, grafted, shades, line + _BELOW + 8)
    return figure


def _scale(genome: Genome) -> float:
    """Points a hidden channel, so that the tallest stack is neither flat nor a tower."""
    stack = max(sum(block.hidden_channels for block in layer.blocks) for layer in genome.layers)
    largest = max(block.hidden_channels for block in genome.blocks())
    return min(150 / stack, 44 / largest)


def _block_height(block: Block, scale: float) -> float:
    return max(12.0, block.hidden_channels * scale)


def _stack_height(layer: Layer, scale: float) -> float:
    return sum(_block_height(block, scale) + _GAP for block in layer.blocks)


def _box(axes: "Axes", x: float, line: float, name: str, detail: str) -> float:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=4"
    axes.add_patch(FancyBboxPatch((x, line - 13), _END - 14, 26, boxstyle=style, fc=PAPER, ec=INK, lw=1.1, zorder=3))
    axes.text(x + (_END - 14) / 2, line, name, fontsize=7.5, ha="center", va="center", zorder=4)
    axes.text(x + (_END - 14) / 2, line + 16, detail, fontsize=6.2, color=MUTED, ha="center", va="top", linespacing=1.1)
    return x + _END


def _pool(axes: "Axes", x: float, line: float, step: Step) -> float:
    from matplotlib.patches import Polygon

    assert isinstance(step.item, Pool)
    left, right = x + 1, x + 13
    corners = [(left, line - 15), (right, line - 8), (right, line + 8), (left, line + 15)]
    axes.add_patch(Polygon(corners, closed=True, fc=FAINT, ec=INK, lw=0.9, zorder=3))
    axes.text(x + 7, line + 19, f"{step.item.kind} {step.item.size}", fontsize=6.2, color=MUTED, ha="center", va="top")
    _, height, width = step.out_shape
    axes.text(x + 7, line + 27, f"→ {height}×{width}", fontsize=6.2, color=MUTED, ha="center", va="top")
    return x + _POOL


def _layer(
    axes: "Axes",
    x: float,
    line: float,
    step: Step,
    layer: Layer,
    *,
    scale: float,
    grafted: Mapping[BlockId, int | None],
    shades: list[str],
) -> float:
    left, right = x + 4, x + 4 + _BLOCK
    split, join = left - 6, right + 6
    bottom = line - 12
    middles: list[float] = []
    for block in layer.blocks:
        height = _block_height(block, scale)
        bottom -= height + (_GAP if middles else 0)
        middles.append(bottom + height / 2)
        _block(axes, left, bottom, height, block, layer, born=grafted.get(block.id), shades=shades)
    for rail in (split, join):
        axes.plot([rail, rail], [min(middles), line], color=FAINT, lw=1, zorder=0)
    for middle in middles:
        axes.plot([split, join], [middle, middle], color=FAINT, lw=1, zorder=0)
    axes.plot(join, line, "o", ms=8.5, mfc=PAPER, mec=INK, mew=1.1, zorder=3)
    axes.plot([join - 2.4, join + 2.4], [line, line], color=INK, lw=1.1, zorder=4)
    axes.plot([join, join], [line - 2.4, line + 2.4], color=INK, lw=1.1, zorder=4)
    before, after = step.in_shape[0], step.out_shape[0]
    text = f"{after} ch" if before == after else f"{before} → {after} ch"
    axes.text((left + right) / 2, line + 8, text, fontsize=6.4, color=MUTED, ha="center", va="top")
    return x + _COLUMN


def _block(
    axes: "Axes",
    left: float,
    top: float,
    height: float,
    block: Block,
    layer: Layer,
    *,
    born: int | None,
    shades: list[str],
) -> None:
    from matplotlib.patches import FancyBboxPatch, Rectangle

    tab = 11.0
    color = NEUTRAL if born is None else shades[min(born, len(shades) - 1)]
    style = "round,pad=0,rounding_size=2.5"
    axes.add_patch(
        FancyBboxPatch(
            (left, top), _BLOCK, height, boxstyle=style, fc=KERNELS[block.kernel_size], ec=color, lw=1.2, zorder=2
        )
    )
    axes.add_patch(Rectangle((left, top), tab, height, fc=color, ec="none", zorder=3))
    name = "?" if born is None else str(born)
    axes.text(left + tab / 2, top + height / 2, name, fontsize=6.6, color="#ffffff", ha="center", va="center", zorder=4)
    text = f"{block.kernel_size}×{block.kernel_size}·{block.hidden_channels}"
    axes.text(
        left + (tab + _BLOCK) / 2, top + height / 2, text, fontsize=6.8, color=_ON_TINT, ha="center", va="center",
        zorder=4,
    )  # fmt: skip
    if block.out_channels < layer.out_channels:  # a concatenated block: which part of the output it writes
        begin, size = block.start / layer.out_channels, block.out_channels / layer.out_channels
        axes.add_patch(
            Rectangle((left + _BLOCK - 3, top + begin * height), 3, size * height, fc=INK, ec="none", zorder=4)
        )


def _legend(axes: "Axes", genome: Genome, grafted: Mapping[BlockId, int | None], shades: list[str], y: float) -> None:
    from matplotlib.patches import Rectangle

    x = 12.0
    for size in sorted({block.kernel_size for block in genome.blocks()}):
        axes.add_patch(Rectangle((x, y - 4), 9, 8, fc=KERNELS[size], ec=FAINT, lw=0.6))
        axes.text(x + 12, y, f"{size}×{size}", fontsize=6.8, color=MUTED, va="center")
        x += 36
    axes.text(x, y, "grafted in", fontsize=6.8, color=MUTED, va="center")
    x += 44
    known = {number for number in grafted.values() if number is not None}
    for number in sorted(known)[:12]:
        axes.add_patch(Rectangle((x, y - 4), 9, 8, fc=shades[min(number, len(shades) - 1)], ec="none"))
        name = "seed" if number == 0 else str(number)
        axes.text(x + 12, y, name, fontsize=6.8, color=MUTED, va="center")
        x += 38 if number == 0 else 25
