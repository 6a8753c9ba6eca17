"""Where the best member errs: mistakes, confusions and classes, as plain data for the page."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.metrics import confusion_matrix, wilson_interval
from graftwork.reports._confusion import Mistake, confused_pairs, worst_mistakes
from graftwork.reports._data import is_mirrored, mirror_pairs
from graftwork.reports._format import interval_text, percent
from graftwork.reports._images import FileNames, ImageSource, sheet_uri, slot
from graftwork.reports._matrix import matrix_view
from graftwork.reports._read import Predictions, RunData

_BOTH_WAYS = 0.25
"""Share of two classes that are taken for each other from which on a mirror may be the reason."""


def mistakes_view(run: RunData, images: ImageSource | None, file_names: FileNames | None) -> dict[str, Any]:
    """The most confident mistakes: ``rows``, and a ``sheet`` of their pictures, empty without images."""
    test = _tested(run)
    found = worst_mistakes(test, str(run.best)) if test is not None else []
    index = np.array([mistake.index for mistake in found], dtype=np.int64)
    names = file_names("test", index) if file_names is not None and found else []
    return {
        "rows": [_mistake(run, one, place, len(found), names) for place, one in enumerate(found)],
        "sheet": sheet_uri(images("test", index)) if images is not None and found else "",
    }


def _mistake(run: RunData, mistake: Mistake, place: int, count: int, names: Sequence[str]) -> dict[str, Any]:
    return {
        "name": names[place] if names else f"example {mistake.index}",
        "label": run.class_names[mistake.label],
        "predicted": run.class_names[mistake.predicted],
        "confidence": percent(mistake.confidence, digits=1),
        "at": slot(place, count),
    }


def confusion_view(run: RunData) -> dict[str, Any] | None:
    """The confusion matrix of the best member on test, and its most frequent confusions as ``pairs``."""
    test = _tested(run)
    if test is None:
        return None
    confusion = confusion_matrix(test.predicted(str(run.best)), test.labels, len(run.class_names))
    pairs = [
        (run.class_names[label], run.class_names[taken], count, mirror_note(run, confusion, label, taken))
        for label, taken, count in confused_pairs(confusion)
    ]
    return {**matrix_view(confusion, run.class_names), "pairs": pairs}


def mirror_note(run: RunData, confusion: NDArray[np.int64], one: int, other: int) -> str:
    """What a mirror may have to do with two classes that are confused; empty where nothing hints at it."""
    if {run.class_names[one], run.class_names[other]} in map(set, mirror_pairs(run)):
        return "they flip into each other"
    shares = (confusion[a, b] / max(1, confusion[a].sum()) for a, b in ((one, other), (other, one)))
    if is_mirrored(run) and min(shares) >= _BOTH_WAYS:
        return "both ways; training images are mirrored: if these flip into each other, search with --flip none"
    return ""


def class_rows(run: RunData) -> list[dict[str, Any]]:
    """Rows of the table of classes, the class told worst first."""
    rows = run.result["per_class"] if run.result is not None else []
    return [
        {
            "name": row["name"],
            "recall": percent(row["recall"]) if row["support"] else "–",
            "interval": interval_text(*wilson_interval(round(row["recall"] * row["support"]), row["support"]))
            if row["support"]
            else "–",
            "precision": percent(row["precision"]),
            "support": f"{row['support']:,}",
        }
        for row in sorted(rows, key=lambda row: row["recall"])
    ]


def _tested(run: RunData) -> Predictions | None:
    """Predictions of the best member on test; None where there are none."""
    test = run.predictions.get("test")
    return test if test is not None and run.best is not None and run.best in test.logits else None
