"""Search strategies: what a search decides, over the same bank, genomes and training.

A `Strategy` says what trains next (`draw`), what is grown (`propose`) and who survives (`survivors`); its own state,
such as a controller's weights, goes into checkpoints (`state_dict`). `Neuroevolution` is the poster's and the default.

* ``neuroevolution``: random growth, joint training, selection.
* ``large-scale-evolution``: tournaments of two among networks that share nothing, children copy weights (Real et al.).
* ``transformation-rl``: a policy learns how to widen and deepen the best network (EAS, Cai et al.).
* ``enas``: a controller samples networks over a bank of all blocks (Pham et al.).
* ``race``: grafts race against the network that they grow on; it grows only where that is worth the FLOPs.
* ``family``: one network that grows, and a finished network of every size that it has had.
* ``random``: random networks trained alone, with successive halving; a control.
* ``grow-only``: one network that grows at random; a control.

A strategy that stands in `STRATEGIES` is found by ``--strategy`` and tested by the contract suite.
"""

from graftwork.evolution.strategies._enas import Enas
from graftwork.evolution.strategies._family import Family
from graftwork.evolution.strategies._grow_only import GrowOnly
from graftwork.evolution.strategies._large_scale import LargeScaleEvolution
from graftwork.evolution.strategies._neuroevolution import Neuroevolution
from graftwork.evolution.strategies._race import Race
from graftwork.evolution.strategies._random import RandomSearch
from graftwork.evolution.strategies._registry import (
    STRATEGIES,
    check_strategy,
    first_genome,
    ignored_options,
    make_strategy,
    outlook,
    suited_recipe,
    why_alone,
)
from graftwork.evolution.strategies._strategy import Drawable, Strategy
from graftwork.evolution.strategies._transformation import TransformationRL

__all__ = [
    "STRATEGIES",
    "Drawable",
    "Enas",
    "Family",
    "GrowOnly",
    "LargeScaleEvolution",
    "Neuroevolution",
    "Race",
    "RandomSearch",
    "Strategy",
    "TransformationRL",
    "check_strategy",
    "first_genome",
    "ignored_options",
    "make_strategy",
    "outlook",
    "suited_recipe",
    "why_alone",
]
