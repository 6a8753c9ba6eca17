"""The kinds of growth: each a frozen value that says what grows, how much and how.

A value is planned for a model by `graftwork.plan`, made by `graftwork.grow`, held by schedules and written to logs. A
new kind is one class, registered by `register_growth`.
"""

from graftwork.surgery.growths._add_blocks import AddBlocks
from graftwork.surgery.growths._add_shared_expert import AddSharedExpert
from graftwork.surgery.growths._deepen import Deepen
from graftwork.surgery.growths._growth import KINDS, Edit, ModelGrowth, Subject, register_growth
from graftwork.surgery.growths._insert_layers import InsertLayers
from graftwork.surgery.growths._repeat import RepeatExperts, RepeatKeyValueHeads
from graftwork.surgery.growths._resize import Resize
from graftwork.surgery.growths._undo import Undo
from graftwork.surgery.growths._widen import Widen, Widening
from graftwork.surgery.growths._widen_all import WidenAll
from graftwork.surgery.growths._widen_interface import WidenInputs, WidenOutputs
from graftwork.surgery.growths._widen_stream import WidenStream

__all__ = [
    "KINDS",
    "AddBlocks",
    "AddSharedExpert",
    "Deepen",
    "Edit",
    "InsertLayers",
    "ModelGrowth",
    "RepeatExperts",
    "RepeatKeyValueHeads",
    "Resize",
    "Subject",
    "Undo",
    "Widen",
    "WidenAll",
    "WidenInputs",
    "WidenOutputs",
    "WidenStream",
    "Widening",
    "register_growth",
]
