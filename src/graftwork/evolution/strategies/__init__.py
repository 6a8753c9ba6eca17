"""Search strategies: what a search decides, over the same bank, genomes and training.

A `Strategy` says who trains next (`draw`), what is grown (`propose`) and who survives (`survivors`); its own state,
such as a controller's weights, goes into checkpoints (`state_dict`). `Neuroevolution` is the poster's and the default.
A strategy that stands in `STRATEGIES` is found by ``--strategy`` and tested by the contract suite.
"""

from graftwork.evolution.strategies._neuroevolution import Neuroevolution
from graftwork.evolution.strategies._registry import STRATEGIES, make_strategy
from graftwork.evolution.strategies._strategy import Strategy

__all__ = ["STRATEGIES", "Neuroevolution", "Strategy", "make_strategy"]
