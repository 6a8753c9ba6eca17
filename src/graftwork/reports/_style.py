"""One look for every figure: colors, type, and how a figure becomes bytes."""

import functools
import html
import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ParamSpec

from graftwork.typing import MemberId

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PAPER, INK, MUTED, GRID, FAINT, NEUTRAL = "#fefefe", "#1c232b", "#5d6873", "#e3e7eb", "#c3cad1", "#8a949e"
MEMBERS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b5ea7", "#8c6d46")
"""Survivors, the best one first: after Okabe & Ito (2008), told apart with any color vision."""
KERNELS: Mapping[int, str] = {1: "#f5cf8e", 3: "#a9d1ee", 5: "#9fd8c3"}
DARK: Mapping[str, str] = {
    PAPER: "#171c22",
    INK: "#e8ecf0",
    MUTED: "#a4afba",
    GRID: "#2c343d",
    FAINT: "#4a545e",
    NEUTRAL: "#8b95a0",
    "#0072b2": "#4fabe4",
    "#d55e00": "#f0873c",
    "#009e73": "#35c79a",
    "#cc79a7": "#de94bd",
    "#e69f00": "#f0b52f",
    "#56b4e9": "#86ccf4",
    "#7b5ea7": "#ab8fd6",
    "#8c6d46": "#c09e72",
}
"""What each color becomes on a dark page."""
LEGIBLE = 9
"""Pixels that the smallest text of a figure has at least, however narrow the page: it is scrolled sideways then."""

_RC: dict[str, object] = {  # plots are 374 points wide: 9.9 of them are 9 pixels on a phone
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": "none",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 9.9,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9.9,
    "ytick.labelsize": 9.9,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$5$"
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica"],
    "font.size": 9.9,
    "legend.fontsize": 9.9,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.labelcolor": INK,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "graftwork",
    "svg.id": None,
    "figure.dpi": 72,
}

P = ParamSpec("P")


def styled(draw: Callable[P, "Figure"]) -> "Callable[P, Figure]":
    """Let a function draw in the house style, whatever the user's matplotlib settings; they stay as they are."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> "Figure":
        import matplotlib as mpl

        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_RC)  # type: ignore[arg-type]  # the stub asks for literal keys
            return draw(*args, **kwargs)

    return wrapped


def canvas(width: float, height: float) -> "tuple[Figure, Axes]":
    """A bare figure whose data units are points (1/72 inch), y downwards: for drawings that are no plots."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    return figure, axes


def member_colors(ranked: Iterable[MemberId]) -> dict[MemberId, str]:
    """A color for each survivor, the best one first; more survivors than colors begin anew."""
    return {member_id: MEMBERS[place % len(MEMBERS)] for place, member_id in enumerate(ranked)}


def generation_colors(last: int) -> list[str]:
    """Hex colors of the generations 0 … ``last``: gray for the seed's, then from dark (early) to light (late)."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shades = colormaps["plasma"]
    span = max(1, last - 1)
    return [NEUTRAL, *(to_hex(shades(0.28 + 0.55 * (number - 1) / span)) for number in range(1, last + 1))]


_PLACES = re.compile(r' (?:d|x|y)="[^"]+"')
_DECIMALS = re.compile(r"-?\d+\.\d{3,}")


def _saved(figure: "Figure", kind: str, **options: object) -> bytes:
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context(), warnings.catch_warnings():
        # Class names may be in any script; a viewer with the right font shows the SVG well.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)  # type: ignore[arg-type]
        figure.savefig(buffer, format=kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def figure_svg(figure: "Figure") -> str:
    """The figure as SVG text, coordinates in hundredths of a point; the same figure gives the same text."""
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    text = _saved(figure, "svg", metadata=metadata).decode()
    return _PLACES.sub(lambda found: _DECIMALS.sub(lambda number: f"{float(number[0]):.2f}", found[0]), text)


def figure_png(figure: "Figure") -> bytes:
    """The figure as PNG, 160 dots an inch."""
    return _saved(figure, "png", dpi=160, metadata={"Software": None})


def inline_svg(svg: str, name: str, title: str) -> str:
    """Make an SVG part of an HTML page: its own ids, no prolog, colors that follow the page's light or dark mode.

    Args:
        svg: text of `figure_svg`.
        name: prefix of its ids, unique on the page.
        title: what it shows, for readers who can't see it.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL)  # the page's style has these lines, too
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r'(xlink:)?href="#([^"]+)"', rf'href="#{name}-\2"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r"font: [^;\"]*?([\d.]+px)[^;\"]*", _font, body)
    smallest = min(map(float, re.findall(r"font-size: ([\d.]+)px", body)), default=LEGIBLE)
    body = re.sub(
        r'<svg[^>]*?viewBox="(\S+ \S+ (\S+) \S+)"[^>]*>',
        lambda found: (
            f'<svg viewBox="{found[1]}" role="img" aria-label="{html.escape(title)}" '
            f'style="--least: {found[2]}px; min-width: {float(found[2]) * LEGIBLE / smallest:.0f}px">'
        ),
        body,
        count=1,
    )
    for light in DARK:
        body = re.sub(f": {light}", f": var(--c{light[1:]})", body)
    return body.strip()


def _font(match: re.Match[str]) -> str:
    weight = "font-weight: 700; " if " bold " in match[0] or "700 " in match[0] or "600 " in match[0] else ""
    return f"{weight}font-size: {match[1]}"
