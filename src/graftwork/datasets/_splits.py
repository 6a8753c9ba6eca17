"""Stratified splits from a seed."""

from dataclasses import dataclass

import numpy as np

from graftwork.datasets._dataset import ImageDataset, Labels
from graftwork.errors import DataError


@dataclass(frozen=True, eq=False)
class Splits:
    """Rows of a data set, each in exactly one split; all classes in every split.

    Args:
        train: Rows of ``images`` to train on, in rising order.
        validation: Rows that selection sees.
        blend: Rows that ensembles are fitted on; empty where none was asked for.
        test: Rows of ``test_images``, or of ``images`` where the data set has no test split.
        order: Rows of ``train`` in an order whose every beginning is stratified (see `calibration`).
    """

    train: Labels
    validation: Labels
    blend: Labels
    test: Labels
    order: Labels

    def calibration(self, num_examples: int) -> Labels:
        """A fixed, stratified selection of the training rows, for running statistics."""
        return np.sort(self.order[:num_examples])


def _count(name: str, value: float, available: int, classes: int) -> int:
    share = 0 <= value < 1
    if isinstance(value, bool) or not (share or (1 <= value <= available and value == int(value))):
        raise DataError(f"{name}: expected a share in [0, 1) or a number of images up to {available}, got {value!r}")
    number = round(value * available) if share else int(value)
    return max(number, classes) if value else 0


def _interleave(groups: list[Labels]) -> Labels:
    """Mix the rows of all classes, by their relative rank in the class, so that every beginning is stratified."""
    ranks = np.concatenate([(np.arange(len(g)) + 0.5) / len(g) for g in groups])
    mixed: Labels = np.concatenate(groups)[np.argsort(ranks, kind="stable")]
    return mixed


def _shares(counts: Labels, number: int) -> Labels:
    """Divide ``number`` among classes in proportion, at least one each, largest remainders first."""
    exact = counts * (number / counts.sum())
    dealt: Labels = np.maximum(np.floor(exact).astype(np.int64), 1)
    while dealt.sum() < number:
        dealt[int(np.argmax(exact - dealt))] += 1
    while dealt.sum() > number and dealt.max() > 1:
        dealt[int(np.argmax(np.where(dealt > 1, dealt - exact, -np.inf)))] -= 1
    return dealt


def split(
    dataset: ImageDataset,
    *,
    seed: int,
    validation: float = 0.1,
    blend: float = 0.05,
    test: float = 0.15,
) -> Splits:
    """Split a data set, stratified by class; the result depends on the seed alone.

    Args:
        dataset: Data set to split; if it brings a test split, that is the test split as a whole.
        seed: Seed of every random choice.
        validation: Share (below 1) or number of the images that are not in the test split.
        blend: Likewise; 0 for none.
        test: Share (below 1) or number of all images; only used where the data set brings no test split.

    Raises:
        DataError: If a class has too few images to be in every split, or nothing would be left to train on.
    """
    rng = np.random.default_rng([seed, 0x5B117])
    classes = len(dataset.class_names)
    rows = [rng.permutation(np.flatnonzero(dataset.labels == label)) for label in range(classes)]
    given = dataset.test_images is not None
    held: dict[str, Labels] = {"test": np.arange(len(dataset.test_images) if dataset.test_images is not None else 0)}
    wanted = (
        [("validation", validation), ("blend", blend)]
        if given
        else [("test", test), ("validation", validation), ("blend", blend)]
    )
    available = sum(map(len, rows))
    needed = 1 + sum(1 for _, value in wanted if value)
    short = min(range(classes), key=lambda label: len(rows[label]))
    if len(rows[short]) < needed:
        spare = ", or set --blend 0" if blend and len(rows[short]) == needed - 1 else ", or leave the class out"
        raise DataError(
            f"{dataset.name}: expected {needed} images of every class, one for each split, got {len(rows[short])} of "
            f"{dataset.class_names[short]!r}; add images{spare}"
        )
    for name, value in wanted:
        number = _count(name, value, available if name == "test" else sum(map(len, rows)), classes)
        taken = _shares(np.array([len(r) for r in rows]), number) if number else np.zeros(classes, dtype=np.int64)
        taken = np.minimum(taken, [max(0, len(r) - 1) for r in rows])
        held[name] = np.sort(np.concatenate([r[:n] for r, n in zip(rows, taken, strict=True)]))
        rows = [r[n:] for r, n in zip(rows, taken, strict=True)]
        if name == "test":
            available = sum(map(len, rows))
    train = np.sort(np.concatenate(rows))
    return Splits(train, held["validation"], held["blend"], held["test"], _interleave(rows))
