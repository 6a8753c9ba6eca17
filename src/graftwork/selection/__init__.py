"""Selection: from what each member gets right to the members that survive.

Every selector answers one question, ``select(correct[member, example], costs[member], num_survivors, rng)``, with the
rows of the survivors in order of choice, and is a pure function of its arguments.

* ``greedy``: the most accurate.
* ``random``: by chance; the control.
* ``coevolution``: those that are right where the others are wrong.

To add one, write a class with that method, and give it a line in ``SELECTORS``: the contract suite then tests it.
"""

from graftwork.selection._coevolution import CoevolutionSelector
from graftwork.selection._greedy import GreedySelector
from graftwork.selection._random import RandomSelector
from graftwork.selection._registry import SELECTORS, make_selector
from graftwork.selection._selector import Selector, SoftSelector

__all__ = [
    "SELECTORS",
    "CoevolutionSelector",
    "GreedySelector",
    "RandomSelector",
    "Selector",
    "SoftSelector",
    "make_selector",
]
