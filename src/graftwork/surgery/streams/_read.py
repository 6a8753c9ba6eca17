"""Read a run by all rules."""

from graftwork.surgery._space import Var
from graftwork.surgery.streams import _arithmetic, _norms, _products  # noqa: F401 - their rules
from graftwork.surgery.streams._reading import PowerOf, Reading
from graftwork.surgery.streams._rules import RULES
from graftwork.surgery.streams._tape import Tape
from graftwork.surgery.streams._values import Kind


def read(tape: Tape, streams: set[Var], new: Kind, numbers: PowerOf | None) -> Reading:
    """Return the reading of a run with zeros or means in the new channels.

    Args:
        tape: The run.
        streams: The volumes that grow.
        new: What new channels of the stream hold.
        numbers: As in `Reading`.

    Raises:
        Refusal: The function can't be kept like that.
    """
    reading = Reading(tape, streams, new, numbers)
    reading.run(RULES)
    return reading
