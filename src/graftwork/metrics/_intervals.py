"""How sure a number is: intervals for shares and means."""

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import InputError


def wilson_interval(num_correct: int, num_examples: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share (Wilson 1927), which stays in [0, 1] and is valid for few examples.

    Args:
        num_correct: Number of examples that make up the share.
        num_examples: Number of all examples, at least one.
        level: Probability with which such intervals cover the true share.

    Raises:
        InputError: If ``num_correct`` is outside 0 … ``num_examples``, there are no examples, or the level is outside
            (0, 1).
    """
    if not 0 <= num_correct <= num_examples or num_examples < 1:
        raise InputError(
            f"num_correct: expected 0 … num_examples, of at least one, got {num_correct!r} of {num_examples!r}"
        )
    z = NormalDist().inv_cdf((1 + _checked(level)) / 2)
    share = num_correct / num_examples
    scale = 1 + z**2 / num_examples
    center = (share + z**2 / (2 * num_examples)) / scale
    half = z / scale * (share * (1 - share) / num_examples + (z / (2 * num_examples)) ** 2) ** 0.5
    low = 0.0 if num_correct == 0 else center - half
    high = 1.0 if num_correct == num_examples else center + half
    return low, high


def bootstrap_interval(
    values: NDArray[np.floating] | NDArray[np.bool_],
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    num_resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron & Tibshirani 1993, chapter 13).

    For the difference of two models on the same examples, pass the differences of their ``correct``: pairs stay
    together, and the interval is as narrow as it should be.

    Args:
        values: Value of each example [example]: booleans, or numbers of any sign.
        rng: Source of the resamples.
        level: Probability with which such intervals cover the true mean.
        num_resamples: Number of times that the examples are resampled.

    Raises:
        InputError: If ``values`` does not have one axis, there are no examples, or the level is outside (0, 1).
    """
    if values.ndim != 1 or len(values) == 0:
        raise InputError(f"values: expected [example] with at least one, got shape {list(values.shape)}")
    tail = (1 - _checked(level)) / 2
    # A resample is multinomial counts of the distinct values: far less to draw than an index for each example.
    distinct, counts = np.unique(values.astype(np.float64), return_counts=True)
    draws = rng.multinomial(len(values), counts / len(values), size=num_resamples)  # [resample, value]
    low, high = np.quantile(draws @ distinct / len(values), [tail, 1 - tail])
    return float(low), float(high)


def _checked(level: float) -> float:
    if not 0 < level < 1:
        raise InputError(f"level: expected a number between 0 and 1, got {level!r}")
    return level
