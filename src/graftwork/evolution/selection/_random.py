"""The control: random survivors."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.evolution.selection._selector import Candidates, Selector


@dataclass(frozen=True, kw_only=True)
class RandomSelector(Selector):
    """Choose survivors at random: every member is equally likely to survive.

    A search that selects this way still trains and grows, so it shows how much of a result is due to selection.
    """

    def choose(self, given: Candidates, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose rows uniformly without replacement."""
        return rng.permutation(len(given.correct))[: given.count].astype(np.int64)
