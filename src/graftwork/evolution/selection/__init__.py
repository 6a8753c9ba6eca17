"""Selection: from what each member gets right to the members that survive.

A selector is a pure function, ``select(correct[member, example], costs[member], num_survivors, rng)``, whose result is
the rows of the survivors in order of choice.

* ``greedy``: the most accurate.
* ``random``: drawn at random; the control.
* ``coevolution``: those that are right where the others are wrong.
* ``pareto``: a family, each the most accurate at its cost.
* ``tournament``: the best of a few drawn at random; ``age`` retires the oldest first (regularized evolution).

To add one, write a `Selector` with a ``choose`` method, which gets the checked arguments as `Candidates`, and give it a
line in ``SELECTORS``: the contract suite then tests it.
"""

from graftwork.evolution.selection._age import AgeSelector
from graftwork.evolution.selection._coevolution import CoevolutionSelector
from graftwork.evolution.selection._greedy import GreedySelector
from graftwork.evolution.selection._pareto import ParetoSelector, non_dominated_fronts
from graftwork.evolution.selection._random import RandomSelector
from graftwork.evolution.selection._registry import SELECTORS, make_selector
from graftwork.evolution.selection._selector import Candidates, Selector, best_first
from graftwork.evolution.selection._tournament import TournamentSelector

__all__ = [
    "SELECTORS",
    "AgeSelector",
    "Candidates",
    "CoevolutionSelector",
    "GreedySelector",
    "ParetoSelector",
    "RandomSelector",
    "Selector",
    "TournamentSelector",
    "best_first",
    "make_selector",
    "non_dominated_fronts",
]
