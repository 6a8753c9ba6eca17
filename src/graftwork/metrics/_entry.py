"""One network or ensemble on a test split, and how much better it is than another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.metrics._intervals import bootstrap_interval, wilson_interval


@dataclass(frozen=True, eq=False)
class Entry:
    """One network or ensemble on the test split.

    Args:
        correct: Whether each example is classified correctly, bool [example].
        details: Further numbers about the network or ensemble.
    """

    correct: NDArray[np.bool_]
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: ``test_accuracy``, its 95 % Wilson ``interval``, and the details."""
        count, total = int(np.count_nonzero(self.correct)), len(self.correct)
        return {"test_accuracy": count / total, "interval": list(wilson_interval(count, total)), **self.details}


def difference(one: Entry, other: Entry) -> dict[str, Any]:
    """How much better ``one`` is, as a share of the test split, with a 95 % bootstrap interval over paired examples."""
    gaps = one.correct.astype(np.float64) - other.correct.astype(np.float64)
    return {"value": float(gaps.mean()), "interval": list(bootstrap_interval(gaps, rng=np.random.default_rng(0)))}
