"""How good everything is on the test split, and whether a difference is more than noise."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graftwork.metrics import bootstrap_interval
from graftwork.reports._read import CONTROL, RunData
from graftwork.runs import Accuracies
from graftwork.typing import MemberId


@dataclass(frozen=True, slots=True)
class Standing:
    """Test accuracy of one network or ensemble.

    Attributes:
        name: what to write beside it.
        interval: 95 %.
    """

    id: str
    name: str
    kind: Literal["member", "ensemble", "control"]
    test_accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Difference:
    """Best member minus control on the test split.

    Attributes:
        value: as a share.
        interval: 95 %, from the same examples resampled for both (paired); None without predictions.
    """

    value: float
    interval: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """In words: is it more than noise?"""
        if self.interval is None:
            return "no predictions are stored, so it can't be said whether this is more than noise"
        low, high = self.interval
        if low > 0:
            return "more than the noise of the test split"
        return "less than the control, by more than noise" if high < 0 else "within the noise of the test split"


def standings(run: RunData) -> list[Standing]:
    """Survivors (best first), ensembles and control of a finished run; empty for an unfinished one."""
    if run.result is None:
        return []
    rows: list[Standing] = []
    for member_id in run.ranked:
        entry = run.entry(member_id)
        if entry is not None:
            name = f"{member_id} (best)" if member_id == run.best else str(member_id)
            rows.append(_standing(entry, member_id, name, "member"))
    for ensemble in run.result["ensemble"] or ():
        method = ensemble["method"]
        name = f"ensemble: {method}" + (" (recommended)" if method == run.recommended else "")
        rows.append(_standing(ensemble, method, name, "ensemble"))
    control = run.entry(CONTROL)
    if control is not None:
        rows.append(_standing(control, CONTROL, "seed network", "control"))
    return rows


def _standing(entry: Accuracies, item_id: str, name: str, kind: Literal["member", "ensemble", "control"]) -> Standing:
    low, high = entry["test_interval"]
    return Standing(item_id, name, kind, entry["test_accuracy"], (low, high))


def difference(run: RunData) -> Difference | None:
    """Best member against the control; None where the run has no control or is unfinished."""
    control = run.entry(CONTROL)
    if run.result is None or control is None or run.best is None:
        return None
    first, second = run.result["best"]["test_accuracy"], control["test_accuracy"]
    correct = [_correct(run, member_id) for member_id in (run.best, CONTROL)]
    one, other = correct
    if one is None or other is None:
        return Difference(first - second, None)
    gaps = one.astype(np.float64) - other.astype(np.float64)
    # A fixed seed: the same run folder gives the same report.
    return Difference(first - second, bootstrap_interval(gaps, rng=np.random.default_rng(0)))


def _correct(run: RunData, member_id: MemberId) -> NDArray[np.bool_] | None:
    predictions = run.predictions.get("test")
    if predictions is None or member_id not in predictions.logits:
        return None
    right: NDArray[np.bool_] = predictions.predicted(member_id) == predictions.labels
    return right
