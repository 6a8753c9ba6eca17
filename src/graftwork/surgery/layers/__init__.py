"""Whole layers: what the entries of a stack do, which of them can be copied, and which numbers follow."""

from graftwork.surgery.layers._apply import freeze, join_groups, replace_configs, set_numbers
from graftwork.surgery.layers._copying import entry_copy, shared_tensors
from graftwork.surgery.layers._gradients import untrained
from graftwork.surgery.layers._origins import INITS, TRAINS, Origins, origins
from graftwork.surgery.layers._stack import Stack, find_stack
from graftwork.surgery.layers._uses import Uses

__all__ = [
    "INITS",
    "TRAINS",
    "Origins",
    "Stack",
    "Uses",
    "entry_copy",
    "find_stack",
    "freeze",
    "join_groups",
    "origins",
    "replace_configs",
    "set_numbers",
    "shared_tensors",
    "untrained",
]
