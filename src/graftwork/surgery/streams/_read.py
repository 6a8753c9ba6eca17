"""Read a run by all rules."""

from contextlib import suppress

from graftwork.surgery._space import Var
from graftwork.surgery.streams import _arithmetic, _norms, _products  # noqa: F401 - their rules
from graftwork.surgery.streams._reading import PowerOf, Reading, Refusal
from graftwork.surgery.streams._rules import RULES
from graftwork.surgery.streams._tape import Tape, UnevenError
from graftwork.surgery.streams._values import Kind


def read(tape: Tape, streams: set[Var], new: Kind, numbers: PowerOf | None, *, later: bool = False) -> Reading:
    """Return the reading of a run with zeros or means in the new channels.

    Where new channels of two factors are zero, neither would ever get gradient. Then the rows that make one of them
    are free, if nothing else needs them to make zeros; otherwise the reading is stuck.

    Args:
        tape: The run.
        streams: The volumes that grow.
        new: What new channels of the stream hold.
        numbers: As in `Reading`.
        later: As in `Reading`.

    Raises:
        Refusal: The function can't be kept like that.
    """
    reading = Reading(tape, streams, new, numbers, later=later)
    reading.run(RULES)
    for right, left in ((1, 0), (0, 1)):
        free = {pair[right] or pair[left] for pair in reading.roles.twice}
        rows = [one for one in free if one is not None]
        alive = Reading(tape, streams, new, numbers, free=rows, later=later)
        with suppress(Refusal, UnevenError):
            if alive.roles.free:
                alive.run(RULES)
                return alive
    return reading


def stuck(reading: Reading) -> bool:
    """Whether new channels of two factors are zero in a reading, so that no gradient reaches what makes them."""
    return bool(reading.roles.twice)
