"""Whole layers: what the entries of a stack do, which of them can be copied, and which numbers follow."""

from graftwork.surgery.layers._apply import freeze, join_groups, replace_configs, set_numbers
from graftwork.surgery.layers._copying import entry_copy, shared_tensors
from graftwork.surgery.layers._gradients import CLEARLY, ROUNDING, gradients_of, largest, untrained
from graftwork.surgery.layers._origins import INITS, TRAINS, Origins, origins
from graftwork.surgery.layers._reference import (
    built_from,
    changed_config,
    config_entries,
    config_value,
    followed,
    is_built_from_config,
    owner_of,
    parameters_on_meta,
    shapes_of,
)
from graftwork.surgery.layers._stack import Stack, find_stack
from graftwork.surgery.layers._uses import Uses

__all__ = [
    "CLEARLY",
    "INITS",
    "ROUNDING",
    "TRAINS",
    "Origins",
    "Stack",
    "Uses",
    "built_from",
    "changed_config",
    "config_entries",
    "config_value",
    "entry_copy",
    "find_stack",
    "followed",
    "freeze",
    "gradients_of",
    "is_built_from_config",
    "join_groups",
    "largest",
    "origins",
    "owner_of",
    "parameters_on_meta",
    "replace_configs",
    "set_numbers",
    "shapes_of",
    "shared_tensors",
    "untrained",
]
