"""A data set and its splits as plain data."""

from typing import Any

import numpy as np

from graftwork.datasets._balance import warnings_about
from graftwork.datasets._dataset import ImageDataset, Labels
from graftwork.datasets._repeats import Repeats
from graftwork.datasets._splits import Splits
from graftwork.datasets._walk import NO_IMAGES


def describe(dataset: ImageDataset, splits: Splits) -> dict[str, Any]:
    """What was found, as plain data: shape, classes, images per split and class, repeats, what was passed over."""
    repeats = Repeats.find(dataset, splits)
    warnings = [*warnings_about(dataset, splits), *repeats.warnings(dataset, splits)]
    if missed := [entry for entry in dataset.skipped if NO_IMAGES not in entry[1]]:
        name, reason = missed[0]
        warnings.append(f"{len(missed)} passed over, such as {name} ({reason}); graftwork data lists them all")
    test_labels = dataset.labels if dataset.test_labels is None else dataset.test_labels

    def count(labels: Labels, rows: Labels) -> dict[str, int]:
        counts = np.bincount(labels[rows], minlength=len(dataset.class_names))
        return {name: int(number) for name, number in zip(dataset.class_names, counts, strict=True)}

    height, width, channels = dataset.shape
    return {
        "name": dataset.name,
        "height": height,
        "width": width,
        "channels": channels,
        "classes": len(dataset.class_names),
        "class_names": list(dataset.class_names),
        "images": len(dataset.images),
        "validation_split": "given" if dataset.validation is not None else "held out",
        "test_split": "given" if dataset.test_images is not None else "held out",
        "groups": None if dataset.groups is None else len(np.unique(dataset.groups)),
        "fingerprint": dataset.fingerprint,
        "splits": {
            "train": len(splits.train),
            "validation": len(splits.validation),
            "blend": len(splits.blend),
            "test": len(splits.test),
        },
        "per_class": {
            "train": count(dataset.labels, splits.train),
            "validation": count(dataset.labels, splits.validation),
            "blend": count(dataset.labels, splits.blend),
            "test": count(test_labels, splits.test),
        },
        "repeats": repeats.describe(dataset, splits),
        "skipped": [list(entry) for entry in dataset.skipped],
        "warnings": warnings,
    }
