"""Stratified splits from a seed, in which what belongs together stays together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from graftwork.datasets._dataset import ImageDataset, Labels
from graftwork.errors import DataError

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Splits:
    """Rows of a data set, each in at most one split; all classes in every split that is not the source's own.

    Args:
        train: Rows of ``images`` to train on, in rising order.
        validation: Rows that selection sees.
        blend: Rows that ensembles are fitted on; empty where none was asked for.
        test: Rows of ``test_images``, or of ``images`` where the data set has no test split.
        order: Rows of ``train`` in an order whose every beginning is stratified (see `calibration`).
        left_out: Rows of ``images`` in no split, as the source's own test or validation split has the same pixels.
    """

    train: Labels
    validation: Labels
    blend: Labels
    test: Labels
    order: Labels
    left_out: Labels = field(default_factory=lambda: np.array([], dtype=np.int64))

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

    Images with the same pixels, and images of one group, are put into one split. Where the source's own test or
    validation split has the pixels of an image that is not in it, that image is left out.

    Args:
        dataset: Data set to split; if it brings a test or validation split, that is taken as a whole.
        seed: Seed of every random choice.
        validation: Share (below 1) or number of the images that are not in the test split; only used where the data set
            brings no validation split.
        blend: Likewise; 0 for none.
        test: Share (below 1) or number of all images; only used where the data set brings no test split.

    Raises:
        DataError: If a class has too few images (or groups) to be in every split, or nothing would be left to train on.
    """
    rng = np.random.default_rng([seed, 0x5B117])
    labels, classes = dataset.labels, len(dataset.class_names)
    held, free, left_out = _given(dataset)
    rows = [rng.permutation(np.flatnonzero(free & (labels == label))) for label in range(classes)]
    shares = {"test": test, "validation": validation, "blend": blend}
    wanted = {name: value for name, value in shares.items() if name not in held}
    _check(dataset, [len(r) for r in rows], wanted)
    counts = _deal(wanted, np.array([len(r) for r in rows]))
    units = _units(dataset, free)
    if len(units) < np.count_nonzero(free):
        parts = _deal_units(dataset, units, counts, rng=rng)
        held |= {name: parts[name] for name in wanted}
        train = parts["train"]
        rows = [rng.permutation(train[labels[train] == label]) for label in range(classes)]
    else:
        for name, taken in counts.items():
            held[name] = np.sort(np.concatenate([r[:n] for r, n in zip(rows, taken, strict=True)]))
            rows = [r[n:] for r, n in zip(rows, taken, strict=True)]
        train = np.sort(np.concatenate(rows))
    return Splits(train, held["validation"], held["blend"], held["test"], _interleave(rows), left_out)


def _given(dataset: ImageDataset) -> tuple[dict[str, Labels], Mask, Labels]:
    """The splits that the source brings, bool [N] of the rows in none of them, and rows that repeat one of them."""
    count = len(dataset.images)
    free, held = np.ones(count, dtype=bool), {}
    copies = dataset.copies
    repeats = np.zeros(count, dtype=bool)
    if dataset.test_images is not None:
        held["test"] = np.arange(len(dataset.test_images))
        if copies is not None:
            repeats = np.isin(copies[:count], copies[count:])
    if dataset.validation is not None:
        own = np.zeros(count, dtype=bool)
        own[dataset.validation] = True
        held["validation"] = np.flatnonzero(own & ~repeats)
        if copies is not None:
            repeats |= np.isin(copies[:count], copies[held["validation"]]) & ~own
        free &= ~own
        if not len(held["validation"]):
            raise DataError(
                f"{dataset.name}: expected a validation split of its own, got one that repeats images of the test "
                "split; take it away"
            )
    return held, free & ~repeats, np.flatnonzero(repeats)


def _check(dataset: ImageDataset, counts: Sequence[int], wanted: Mapping[str, float]) -> None:
    """Refuse classes that are too small to be in every split."""
    needed = 1 + sum(1 for value in wanted.values() if value)
    short = min(range(len(counts)), key=counts.__getitem__)
    if counts[short] < needed:
        blend = wanted.get("blend")
        spare = ", or set --blend 0" if blend and counts[short] == needed - 1 else ", or leave the class out"
        raise DataError(
            f"{dataset.name}: expected {needed} images of every class, one for each split, got {counts[short]} of "
            f"{dataset.class_names[short]!r}; add images{spare}"
        )


def _deal(wanted: Mapping[str, float], left: Labels) -> dict[str, Labels]:
    """Number of images of each class in each split to be held out, int64 [class]; ``left`` is how many there are."""
    counts = {}
    for name, value in wanted.items():
        number = _count(name, value, int(left.sum()), len(left))
        taken = _shares(left, number) if number else np.zeros(len(left), dtype=np.int64)
        counts[name] = np.minimum(taken, np.maximum(left - 1, 0))
        left = left - counts[name]
    return counts


# Units: images that stay together ------------------------------------------------------------------------------------


def _units(dataset: ImageDataset, free: Mask) -> list[Labels]:
    """The free rows in units that stay together, as they are of one group or have the same pixels."""
    rows = np.flatnonzero(free).tolist()
    above = {row: row for row in rows}

    def top(row: int) -> int:
        while above[row] != row:
            above[row] = row = above[above[row]]
        return row

    for key in (dataset.groups, dataset.copies):
        first: dict[int, int] = {}
        if key is not None:
            for row in rows:
                above[top(row)] = top(first.setdefault(int(key[row]), row))
    units: dict[int, list[int]] = {}
    for row in rows:
        units.setdefault(top(row), []).append(row)
    return [np.array(unit) for unit in units.values()]


def groups_of(dataset: ImageDataset, rows: Labels) -> Labels:
    """What images belong together, as they are of one group or have the same pixels.

    Args:
        dataset: Data set.
        rows: Rows of images, int64 [N].

    Returns:
        Number of each one's unit, int64 [N].
    """
    free = np.zeros(len(dataset.labels), dtype=np.bool_)
    free[rows] = True
    numbers = np.zeros(len(dataset.labels), dtype=np.int64)
    for number, unit in enumerate(_units(dataset, free)):
        numbers[unit] = number
    found: Labels = numbers[rows]
    return found


def _deal_units(
    dataset: ImageDataset, units: list[Labels], counts: Mapping[str, Labels], *, rng: np.random.Generator
) -> dict[str, Labels]:
    """Put units into splits: first the smallest that give every class to every split, then large ones before small.

    Args:
        dataset: Data set.
        units: Rows of each unit.
        counts: Wanted number of images of each class in each split but training, int64 [class].
        rng: Decides between units of one size.

    Returns:
        Rows of each split, training too, in rising order.

    Raises:
        DataError: If a class has too few units to be in every split.
    """
    names = ["train", *(name for name, number in counts.items() if number.any())]
    every = np.bincount(np.concatenate([dataset.labels[unit] for unit in units]), minlength=len(dataset.class_names))
    held = np.stack([counts[name] for name in names[1:]]) if names[1:] else np.zeros((0, len(every)), dtype=np.int64)
    want = np.concatenate([[every - held.sum(0)], held]).astype(float)  # [split, class]
    room, chosen = want.copy(), np.full(len(units), -1)
    contents = [np.unique(dataset.labels[unit], return_counts=True) for unit in units]

    def put(unit: int, place: int) -> None:
        classes, numbers = contents[unit]
        room[place, classes] -= numbers
        chosen[unit] = place

    order = sorted(rng.permutation(len(units)).tolist(), key=lambda unit: len(units[unit]))
    holding: list[list[int]] = [[] for _ in every]
    for unit in order:
        for label in contents[unit][0]:
            holding[label].append(unit)
    for label in sorted(range(len(every)), key=lambda label: len(holding[label])):
        for place in np.argsort(want.sum(1), kind="stable"):
            if room[place, label] == want[place, label]:
                unit = next((unit for unit in holding[label] if chosen[unit] < 0), None)
                if unit is None:
                    raise DataError(
                        f"{dataset.name}: expected {len(names)} groups (or different images) of every class, one for "
                        f"each split, got {len(holding[label])} of {dataset.class_names[label]!r}; add some, or hold "
                        "out fewer splits"
                    )
                put(unit, int(place))
    for unit in reversed(order):
        if chosen[unit] < 0:
            classes, numbers = contents[unit]
            change = (numbers**2 - 2 * numbers * room[:, classes]) / want[
                :, classes
            ]  # of squared gaps to what is wanted
            put(unit, int(change.sum(1).argmin()))
    empty = np.array([], dtype=np.int64)
    parts = {name: [unit for unit, place in zip(units, chosen, strict=True) if names[place] == name] for name in names}
    return {name: np.sort(np.concatenate([empty, *parts.get(name, [])])) for name in ("train", *counts)}
