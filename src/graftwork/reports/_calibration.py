"""Calibration plot: how far a network's confidence can be believed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graftwork.metrics import expected_calibration_error, negative_log_likelihood, reliability
from graftwork.reports._style import FAINT, INK, MUTED, PAPER, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_LEAST = 5


@styled
def calibration_figure(
    series: Sequence[tuple[str, NDArray[np.float64], str]], labels: NDArray[np.int64], *, num_bins: int = 15
) -> "Figure":
    """Reliability diagram with expected calibration error, and how many examples stand behind each bin.

    Args:
        series: (name, probabilities float64 [example, class], color), at least one; bars show the first's counts.
        labels: int64 [example].
        num_bins: bins of equal width (Guo et al. 2017); those with fewer than five examples are counted in the
            error, but not drawn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.set_title("Confidence against accuracy, on test", pad=10 + 15 * len(series))
    axes.plot([0, 100], [0, 100], color=FAINT, lw=1, ls=(0, (3, 2)))
    for place, (name, probabilities, color) in enumerate(series):
        bins = reliability(probabilities, labels, num_bins=num_bins)
        error = expected_calibration_error(probabilities, labels, num_bins=num_bins)
        likelihood = negative_log_likelihood(probabilities, labels)
        used = bins.counts >= min(_LEAST, bins.counts.max())  # a bin of two examples says nothing
        x, y = 100 * bins.confidences[used], 100 * bins.accuracies[used]
        if place == 0:
            axes.vlines(x, np.minimum(x, y), np.maximum(x, y), color=color, lw=5, alpha=0.2)
            centers = 50 * (bins.edges[1:] + bins.edges[:-1])
            below.bar(centers, bins.counts, width=92 / num_bins, color=color, alpha=0.75)
        label = f"{name}: ECE {100 * error:.2f} %, NLL {likelihood:.3f}"
        axes.plot(x, y, "o-", color=color, lw=1.3, ms=4.5, mec=PAPER, mew=0.6, label=label)
    axes.text(4, 92, "too modest", color=MUTED, fontsize=9.9)
    axes.text(96, 4, "too sure", color=MUTED, fontsize=9.9, ha="right")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_ylabel("accuracy, %")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), labelcolor=INK)
    below.set_yscale("log")
    below.set_ylabel("examples")
    below.set_xlabel("confidence, %")
    below.grid(visible=False, axis="x")
    below.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    below.minorticks_off()
    return figure
