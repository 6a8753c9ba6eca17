"""What grows along because a config has one number for both: an embedding that is not tied, a second head."""

from graftwork.errors import SurgeryError
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._space import atoms
from graftwork.surgery._trace import LOOKED_UP, OUTPUT
from graftwork.surgery.interface._described import Description
from graftwork.surgery.interface._places import Place, Places


def companions(
    graph: ChannelGraph, places: Places, described: Description, init: str
) -> tuple[list[Place], tuple[str, ...]]:
    """Return the further places that grow, and notes about them.

    Args:
        graph: The traced model.
        places: What was asked to grow.
        described: What the config builds.
        init: What new rows hold.

    Raises:
        SurgeryError: Something that shares the number can't grow without changing what is there.
    """
    found: list[Place] = []
    notes: list[str] = []
    known = {place.name for place in places.places}
    for name, dim in described.dims.items():
        if name in known:
            continue
        expr = graph.trace.spaces[name][dim]
        reasons = {reason.text for var in atoms(expr) for reason in var.reasons}
        forbidding = [text for text in reasons if not text.startswith((OUTPUT, LOOKED_UP))]
        consumed = any(use.consumed and use.dim == dim for use in graph.trace.uses[name])
        if places.inputs or forbidding or consumed:
            why = forbidding[0] if forbidding else "it is no head and no embedding"
            raise SurgeryError(
                f"{places.sites[0]!r} can't get new ones: {name!r} shares their number in the config and can't grow "
                f"along ({why})"
            )
        found.append(Place(name, dim, init))
        notes.append(f"{name!r} grows along: the config has one number for both")
        if not graph.trace.uses[name]:
            notes.append(f"{name!r} did not run on the example: its new rows were not checked")
    return found, tuple(notes)
