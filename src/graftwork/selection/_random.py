"""The control: survivors by chance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.selection._selector import num_chosen

__all__ = ["RandomSelector"]


@dataclass(frozen=True, kw_only=True)
class RandomSelector:
    """Every member is equally likely to survive, whatever it can do.

    A search that selects this way still trains and grows, so it shows how much of a result selection earned.
    """

    def select(
        self,
        correct: NDArray[np.bool_],
        costs: NDArray[np.float64],
        num_survivors: int,
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Choose rows uniformly without replacement; see ``Selector.select``."""
        count = num_chosen(correct, costs, num_survivors)
        return rng.permutation(len(correct))[:count].astype(np.int64)
