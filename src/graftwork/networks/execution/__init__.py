"""How a genome runs over a bank.

`run_stem`, `run_item` and `run_head` are the forward of stem, item and head, in a plain *reference* form and a *fused*
one; `walk` runs many members over one batch and computes each common prefix once (`prefix_tree` is that plan as data);
`staged_outputs` runs each only where those before it have left an image open;
`InputTransform` turns stored images into what networks read. `set_kernels` chooses what runs the passes between the
products of the fused form: PyTorch (the default) or compiled kernels.
"""

from graftwork.networks.execution._input import InputTransform
from graftwork.networks.execution._layer import (
    cancelled_scale,
    penultimate_features,
    pool_features,
    run_head,
    run_item,
    run_stem,
)
from graftwork.networks.execution._native import get_kernels, set_kernels, using_kernels
from graftwork.networks.execution._ops import Form, Mode, Settings, Statistics, Weights
from graftwork.networks.execution._stages import Settles, staged_outputs
from graftwork.networks.execution._tree import Segment, prefix_tree
from graftwork.networks.execution._walk import Output, Runnable, shared_flops, walk

__all__ = [
    "Form",
    "InputTransform",
    "Mode",
    "Output",
    "Runnable",
    "Segment",
    "Settings",
    "Settles",
    "Statistics",
    "Weights",
    "cancelled_scale",
    "get_kernels",
    "penultimate_features",
    "pool_features",
    "prefix_tree",
    "run_head",
    "run_item",
    "run_stem",
    "set_kernels",
    "shared_flops",
    "staged_outputs",
    "using_kernels",
    "walk",
]
