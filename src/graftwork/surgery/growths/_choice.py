"""Which volumes grow, and by how many units, so that a site becomes as wide as asked."""

from collections.abc import Iterator

from graftwork.errors import SurgeryError
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._methods import Method
from graftwork.surgery._space import Var


def choices(
    graph: ChannelGraph,
    site: str,
    method: Method,
    *,
    extra: int | None = None,
    width: int | None = None,
    factor: float | None = None,
    axis: int | None = None,
) -> Iterator[dict[Var, int]]:
    """Yield the ways to make a site as wide as asked, the outermost volume first.

    A width may be made of several volumes (groups and channels in a group, heads and their width). Growing 12 heads
    × 64 by a factor of 1.5 first offers 18 heads × 64, then 12 heads × 96.

    Args:
        graph: The channel graph of the model.
        site: Path of a module or name of a parameter.
        method: How new units will be filled; says in which multiples they come.
        extra: Number of new channels. One of ``extra``, ``width`` and ``factor`` is given.
        width: Number of channels afterwards.
        factor: Ratio of the new width to the old one, rounded up to what the volume allows.
        axis: Number of the volume that grows, the outermost first; None for any.

    Yields:
        Volume → new units.

    Raises:
        SurgeryError: There is no way.
    """
    wanted = _wanted(graph.width(site), site, extra=extra, width=width, factor=factor)
    candidates = graph.candidates(site, axis)
    if not candidates:
        raise graph.refusal(site)
    problem: SurgeryError | None = None
    steps, found = set(), False
    for var in candidates:
        try:
            least = graph.added(site, graph.close({var: method.step}, step=method.step))
            steps.add(least)
            times = -(-wanted // least) if factor is not None else wanted // least
            if times == 0 or (factor is None and wanted % least):
                continue
            growth = graph.close({var: method.step * times}, step=method.step)
        except SurgeryError as error:
            problem = problem or error
            continue
        graph.refuse_left_behind(growth)
        found = True
        yield growth
    if found:
        return
    if steps:
        possible = " or ".join(map(str, sorted(steps)))
        raise SurgeryError(
            f"{site!r}: expected new channels in steps of {possible}, got {wanted}; give a multiple, or a factor, "
            "which is rounded up"
        )
    raise problem or graph.refusal(site)


def _wanted(present: int, site: str, *, extra: int | None, width: int | None, factor: float | None) -> int:
    if factor is not None:
        return max(round(present * factor) - present, 1)
    wanted = extra if extra is not None else (width or 0) - present
    if wanted <= 0:
        raise SurgeryError(f"{site!r}: expected a width above the present {present}, got {width}; widths only grow")
    return wanted
