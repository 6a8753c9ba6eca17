"""How good a model is on labelled images that its run has not seen, and how these differ from those of the run."""

from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from graftwork._files import damaged
from graftwork.datasets import ImageDataset, load_dataset
from graftwork.errors import DataError
from graftwork.metrics import (
    class_scores,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    sample_distance,
    wilson_interval,
)
from graftwork.networks.execution import InputTransform
from graftwork.runs import ClassResult, RunFolder
from graftwork.session._classifier import Classifier
from graftwork.session._final import per_class

_NUM_BINS = 10
_MOST_PIXELS = 2**25


class Bin(TypedDict):
    """Images whose largest probability is above ``low`` and up to ``high``; means are ``None`` where there are none."""

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


class Shift(TypedDict):
    """How new images differ from those of the run.

    ``brightness`` is each channel's mean and ``contrast`` its deviation, over the training split's: the first less its
    mean and by its deviation, the second as a ratio (behind a trunk: empty). ``class_distance`` is half the sum of
    differences of class shares to the training split. ``distance`` is the largest Kolmogorov–Smirnov distance of a
    class's probabilities on the new images to those on the run's test split, and ``p_value`` its significance,
    corrected for the number of classes (Rabanser et al. 2019).
    """

    brightness: list[float]
    contrast: list[float]
    class_distance: float
    confidence_on_test: float
    accuracy_on_test: float
    distance: float
    p_value: float


class Scores(TypedDict):
    """What `evaluate` finds; ``interval`` is Wilson's, of 95 %."""

    data: str
    images: int
    skipped: int
    accuracy: float
    interval: list[float]
    balanced_accuracy: float
    macro_f1: float
    majority: dict[str, str | float]
    per_class: list[ClassResult]
    confidence: float
    ece: float
    nll: float
    calibration: list[Bin]
    shift: Shift | None


def evaluate(
    model: Classifier,
    data: str,
    *,
    batch_size: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    skip_bad_images: bool = False,
) -> Scores:
    """Classify labelled images, all that a source has, and compare with their labels.

    Args:
        model: What classifies.
        data: Source of the images, as `graftwork.datasets.load_dataset` takes it; classes are matched by name, and
            classes of the model may be missing.
        batch_size: Images in a pass; ``None``: as many as the model takes by default.
        image_column: Column of a table that holds the images; ``None``: found by its type.
        label_column: Column of a table that holds the labels; ``None``: found by its name.
        skip_bad_images: Whether images that can't be read are left out and counted; otherwise they are an error.

    Raises:
        DataError: If the data can't be used, hold a class that the model does not know, or are those of the run itself.
    """
    channels, height, width = model.input_shape
    if height * width > _MOST_PIXELS:  # a stranger's run may say anything
        raise DataError(
            f"data: expected a model for images of at most {_MOST_PIXELS:,} pixels, got {height}×{width}; "
            "the run is damaged"
        )
    found = load_dataset(
        data,
        image_size=None if data == "digits" else (height, width),
        image_column=image_column,
        label_column=label_column,
        skip_bad_images=skip_bad_images,
    )
    _refuse_own(model, found)
    labels = _labels(model, found)
    seen, moments = list[torch.Tensor](), _Moments(channels)
    for images in _batches(found, batch_size or model.batch_size):
        pixels = _in_channels(images, channels)
        moments.add(pixels)
        seen.append(model.probabilities(torch.from_numpy(pixels)))
    probabilities = torch.cat(seen).double().numpy()
    return _scores(model, found, probabilities, labels, moments)


def _refuse_own(model: Classifier, found: ImageDataset) -> None:
    if model.folder is None:
        return
    with damaged(f"{model.folder.path / 'provenance.json'}"):
        own = model.folder.read_json("provenance.json")["data"]
        known = {own["fingerprint"], own.get("trunk", {}).get("images")}
    if found.fingerprint in known:
        raise DataError(
            f"data: expected other images than those that {model.folder.path} was trained and tested on, got the same; "
            f"its accuracy on those held out is shown by: graftwork inspect {model.folder.path}"
        )


def _labels(model: Classifier, found: ImageDataset) -> NDArray[np.int64]:
    """Labels of all images by the model's numbers of classes, int64 [n]."""
    numbers = {name: number for number, name in enumerate(model.class_names)}
    unknown = [name for name in found.class_names if name not in numbers]
    if unknown:
        known = ", ".join(model.class_names[:20]) + (", …" if len(model.class_names) > 20 else "")
        raise DataError(
            f"data: expected the model's classes ({known}), got also {', '.join(unknown[:20])}; rename them"
        )
    parts = [found.labels] if found.test_labels is None else [found.labels, found.test_labels]
    return np.array([numbers[name] for name in found.class_names], dtype=np.int64)[np.concatenate(parts)]


def _batches(found: ImageDataset, size: int) -> "list[NDArray[np.uint8]]":
    parts = [found.images] if found.test_images is None else [found.images, found.test_images]
    return [part[start : start + size] for part in parts for start in range(0, len(part), size)]


def _in_channels(images: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Images [B, H, W, C] with the model's channels: grey ones repeated, colours weighed as Pillow does."""
    if images.shape[3] == channels:
        return np.array(images)  # a copy: a memory map may be read-only, which torch tensors can't be
    if images.shape[3] == 1:
        return np.repeat(images, channels, axis=3)
    weighed = images.astype(np.uint32) @ np.array([19595, 38470, 7471], dtype=np.uint32)
    return ((weighed + 0x8000) >> 16).astype(np.uint8)[..., None]


class _Moments:
    """Mean and deviation of each channel of values scaled to [0, 1], over batches."""

    def __init__(self, channels: int) -> None:
        self._sum, self._squares, self._count = np.zeros(channels), np.zeros(channels), 0

    def add(self, images: NDArray[np.uint8]) -> None:
        values = images.reshape(-1, images.shape[3]) / 255
        self._sum += values.sum(0)
        self._squares += np.square(values).sum(0)
        self._count += len(values)

    def result(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        mean = self._sum / self._count
        return mean, np.sqrt(np.maximum(self._squares / self._count - mean**2, 0))


def _scores(
    model: Classifier,
    found: ImageDataset,
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    moments: _Moments,
) -> Scores:
    predicted, names = probabilities.argmax(1), model.class_names
    right, counts = int((predicted == labels).sum()), np.bincount(labels, minlength=len(names))
    scores = class_scores(predicted, labels, len(names))
    return {
        "data": found.name,
        "images": len(labels),
        "skipped": len(found.skipped),
        "accuracy": right / len(labels),
        "interval": list(wilson_interval(right, len(labels))),
        "balanced_accuracy": scores.balanced_accuracy,
        "macro_f1": scores.macro_f1,
        "majority": {"name": names[int(counts.argmax())], "accuracy": float(counts.max() / len(labels))},
        "per_class": per_class(predicted, labels, names),
        "confidence": float(probabilities.max(1).mean()),
        "ece": expected_calibration_error(probabilities, labels),
        "nll": negative_log_likelihood(probabilities, labels),
        "calibration": _bins(probabilities, labels),
        "shift": None
        if model.folder is None or model.mirrored
        else _shift(model, model.folder, probabilities, counts, moments),
    }


def _bins(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> list[Bin]:
    found = reliability(probabilities, labels, num_bins=_NUM_BINS)
    edges = found.edges.tolist()
    columns = (edges, edges[1:], found.counts.tolist(), found.confidences.tolist(), found.accuracies.tolist())
    return [
        {
            "low": low,
            "high": high,
            "images": count,
            "confidence": confidence if count else None,
            "accuracy": accuracy if count else None,
        }
        for low, high, count, confidence, accuracy in zip(*columns, strict=False)
    ]


def _shift(
    model: Classifier,
    folder: RunFolder,
    probabilities: NDArray[np.float64],
    counts: NDArray[np.int64],
    moments: _Moments,
) -> Shift:
    stored = folder.load_tensors("predictions/test.safetensors")
    with damaged(f"{folder.path}: predictions and provenance"):
        logits, labels = stored[model.stored_as], stored["labels"]
        trained = folder.read_json("provenance.json")["data"]["per_class"]["train"]
        shares = np.array([trained[name] for name in model.class_names], dtype=np.float64)
    known = logits.double().softmax(1).numpy()
    distance, p_value = sample_distance(known, probabilities)
    mean, deviation = moments.result()
    then = model.transform or InputTransform((), ())
    pairs = zip(mean.tolist(), deviation.tolist(), then.mean, then.std, strict=False)
    moved = [((now - before) / scale, wide / scale) for now, wide, before, scale in pairs]
    return {
        "brightness": [value for value, _ in moved],
        "contrast": [value for _, value in moved],
        "class_distance": float(np.abs(counts / counts.sum() - shares / shares.sum()).sum() / 2),
        "confidence_on_test": float(known.max(1).mean()),
        "accuracy_on_test": float((logits.argmax(1) == labels).double().mean()),
        "distance": distance,
        "p_value": p_value,
    }
