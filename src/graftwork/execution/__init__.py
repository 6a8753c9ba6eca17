"""How a genome runs over a bank.

`run_stem`, `run_item` and `run_head` are the forward of each part, in a plain *reference* form and a *fused* one;
`walk` runs many members over one batch and computes each common prefix once (`prefix_tree` is that plan as data);
`InputTransform` turns stored images into what networks read.
"""

from graftwork.execution._input import InputTransform
from graftwork.execution._layer import (
    cancelled_scale,
    penultimate_features,
    pool_features,
    run_head,
    run_item,
    run_stem,
)
from graftwork.execution._ops import EPSILON, Form, Mode, Settings, Statistics, Weights
from graftwork.execution._tree import Segment, prefix_tree
from graftwork.execution._walk import Output, Runnable, shared_flops, walk

__all__ = [
    "EPSILON",
    "Form",
    "InputTransform",
    "Mode",
    "Output",
    "Runnable",
    "Segment",
    "Settings",
    "Statistics",
    "Weights",
    "cancelled_scale",
    "penultimate_features",
    "pool_features",
    "prefix_tree",
    "run_head",
    "run_item",
    "run_stem",
    "shared_flops",
    "walk",
]
