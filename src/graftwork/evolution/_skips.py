"""Updates that were skipped: counted by member, until one has to go."""

from collections.abc import Container, Sequence

from graftwork.errors import GraftworkError
from graftwork.evolution._state import SearchState
from graftwork.training import NOT_FINITE_HINT

MOST_IN_A_ROW = 3
"""Skipped updates in a row after which a member is dropped."""


def note_skipped(state: SearchState, names: Sequence[str], skipped: Container[int]) -> bool:
    """Count which updates were skipped, and drop the members that fail again and again.

    Args:
        state: The search, after these updates; changed in place.
        names: What each update trained, in order. A genome that is not a member's is counted, but can't be dropped.
        skipped: Indices of the updates that were skipped.

    Returns:
        Whether members were dropped.

    Raises:
        GraftworkError: If no member would be left.
    """
    hopeless: set[str] = set()
    for index, name in enumerate(names):
        if index not in skipped:
            state.failing.pop(name, None)
            continue
        state.failing[name] = state.failing.get(name, 0) + 1
        state.skipped[name] = state.skipped.get(name, 0) + 1
        if state.failing[name] >= MOST_IN_A_ROW:
            hopeless.add(name)
    doomed = tuple(name for name in state.population.members if name in hopeless)
    if not doomed:
        return False
    kept = [name for name in state.population.members if name not in hopeless]
    if not kept:
        raise GraftworkError(
            f"training: expected a finite loss and gradient, got none in {MOST_IN_A_ROW} updates in a row of "
            f"{', '.join(doomed)}, up to step {state.step}, and no other member is left; {NOT_FINITE_HINT}"
        )
    state.population.keep(kept)
    state.dropped += doomed
    for name in doomed:
        del state.failing[name]
    return True
