"""What a network *is*: frozen plain data, no tensors.

A `Genome` is a `Stem`, a body of `Layer` and `Pool` items, and a `Head`. A layer is a zero-padded residual plus the sum
of its blocks. Each `Block` names a `BlockId`: two genomes share weights exactly where they name the same id.
Analytic costs (`forward_flops`, `num_parameters`, `receptive_field`) live here because they need nothing else.
"""

from graftwork.networks.genome._cost import (
    TRAINING_FACTOR,
    flops_per_item,
    forward_flops,
    head_flops,
    item_flops,
    num_parameters,
    parameters_per_entry,
    parameters_per_item,
    receptive_field,
    stem_flops,
    training_flops,
)
from graftwork.networks.genome._draw import diff, draw, summary
from graftwork.networks.genome._genome import FORMAT_VERSION, Genome, Step
from graftwork.networks.genome._parts import Block, Head, Layer, Pool, Stem
from graftwork.networks.genome._seeds import SEEDS, seed_genome

__all__ = [
    "FORMAT_VERSION",
    "SEEDS",
    "TRAINING_FACTOR",
    "Block",
    "Genome",
    "Head",
    "Layer",
    "Pool",
    "Stem",
    "Step",
    "diff",
    "draw",
    "flops_per_item",
    "forward_flops",
    "head_flops",
    "item_flops",
    "num_parameters",
    "parameters_per_entry",
    "parameters_per_item",
    "receptive_field",
    "seed_genome",
    "stem_flops",
    "summary",
    "training_flops",
]
