"""Genome → `Growth`: growth that preserves the function and never touches an existing weight.

* `R2RWiden`: a zero-initialised block in parallel inside a layer (summed or concatenated).
* `R2RDeepen`: a new layer of zero-initialised blocks around a residual, at any depth.
* `RandomPadding`: the control, the same growth with random weights, which does *not* preserve the function.
* `compose`: several at once.

A `Growth` is a value that can be printed and tested; `Growth.graft` adds its blocks to a bank. `new_block_id` names
blocks, `even` rounds hidden widths, `Transform` is the interface, and `output_gap` checks any growth.
"""

from graftwork.evolution.transforms._gap import output_gap
from graftwork.evolution.transforms._growth import Growth, Transform, compose, new_block_id
from graftwork.evolution.transforms._r2r import R2RDeepen, R2RWiden, RandomPadding, even

__all__ = [
    "Growth",
    "R2RDeepen",
    "R2RWiden",
    "RandomPadding",
    "Transform",
    "compose",
    "even",
    "new_block_id",
    "output_gap",
]
