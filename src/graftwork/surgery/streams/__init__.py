"""Model width: the residual stream, what its new channels hold, and what keeps the function.

A run of the model is noted operation by operation (`Tape`) and read as the wider model would run it (`Reading`), which
says how every parameter's new entries start and by how much old ones are scaled. What a config or the forward computes
from the width is found by building, and running, the model at its new width (`choose`).
"""

from graftwork.surgery.streams._choose import Way, choose, set_target
from graftwork.surgery.streams._fill import average_gain, filled, scaled
from graftwork.surgery.streams._find import holds, streams
from graftwork.surgery.streams._gradients import unmoved
from graftwork.surgery.streams._precision import doubled, looseness
from graftwork.surgery.streams._reference import Wish
from graftwork.surgery.streams._tape import Tape
from graftwork.surgery.streams._values import Fill, Kind

__all__ = [
    "Fill",
    "Kind",
    "Tape",
    "Way",
    "Wish",
    "average_gain",
    "choose",
    "doubled",
    "filled",
    "holds",
    "looseness",
    "scaled",
    "set_target",
    "streams",
    "unmoved",
]
