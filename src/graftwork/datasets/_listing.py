"""Listing: the images of a source before they are decoded, each with label, split and group."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graftwork.datasets._convert import Picture
from graftwork.datasets._decode import decode
from graftwork.datasets._tasks import check_task
from graftwork.datasets._thin import thin
from graftwork.errors import DataError

SplitName = Literal["train", "validation", "test"]

_WORDS: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_SPLITS: dict[str, SplitName] = {word: split for split, words in _WORDS.items() for word in words}


def split_named(word: object) -> SplitName | None:
    """The split that a word means (``val``, ``testing``, …), in any case; ``None``: none."""
    return _SPLITS.get(word.strip().lower()) if isinstance(word, str) else None


def split_of_file(path: Path) -> SplitName:
    """The split that a word in a file's name says, else its folder: ``test-00000-of-00001.parquet``, not ``latest``."""
    words = [*re.split(r"[^a-z]+", path.stem.lower()), path.parent.name]
    return next((split for word in words if (split := split_named(word)) is not None), "train")


@dataclass
class Raw:
    """A data set as it was read.

    Args:
        images: Images, uint8 [N, H, W, C].
        labels: Class of each image [N].
        class_names: Names of the classes, in order of labels.
        test_images: Images of the test split; ``None`` where the source has none.
        test_labels: Class of each of these; ``None`` likewise.
        validation: Rows of ``images`` that are the source's validation split; ``None`` where it has none.
        groups: Number of the group of each image [N], of which none may be in two splits; ``None``: no groups.
        names: What messages call each image, those of the test split last; empty: by their rows.
        skipped: Name of everything that was left out, with the reason.
    """

    images: NDArray[np.uint8]
    labels: NDArray[Any]
    class_names: tuple[str, ...]
    test_images: NDArray[np.uint8] | None = None
    test_labels: NDArray[Any] | None = None
    validation: NDArray[Any] | None = None
    groups: NDArray[Any] | None = None
    names: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class ReadOptions:
    """How sources are read; see `load_dataset`."""

    image_size: int | tuple[int, int] | None = None
    image_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    image_root: str | None = None
    skip_bad_images: bool = False
    max_images: int | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source.

    Args:
        name: What messages call it.
        picture: Where its pixels are.
        label: Its class: a number, or the class's name.
        split: The split that the source puts it in.
        group: What it must not be separated from, such as a patient; ``None``: nothing.
    """

    name: str
    picture: Picture
    label: int | str
    split: SplitName = "train"
    group: str | None = None


@dataclass
class Listing:
    """The images of a source.

    Args:
        where: The source, as messages name it.
        items: Its images.
        class_names: Names of the classes, in order of labels; ``None``: the labels say them.
        skipped: Name of everything that was passed over, with the reason.
    """

    where: str
    items: list[Item]
    class_names: tuple[str, ...] | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len({item.label for item in self.items} if self.class_names is None else self.class_names)

    def read(self, options: ReadOptions) -> Raw:
        """Decode the images.

        Raises:
            DataError: If images can't be read, a group is in two splits, or labels are of two kinds.
        """
        order: list[SplitName] = ["train", "validation", "test"]
        items = sorted(self.items, key=lambda item: order.index(item.split))
        if items and items[0].split != "train":
            raise DataError(
                f"{self.where}: expected images to train on, got only those of {items[0].split}; "
                "give the others too, or name no splits"
            )
        rows = thin([(item.split, item.label) for item in items], options.max_images)
        class_names, labels = self._classes(items)
        groups = self._groups(items)
        images, kept, skipped = decode(
            [(items[row].name, items[row].picture) for row in rows],
            image_size=options.image_size,
            skip_bad_images=options.skip_bad_images,
            where=self.where,
        )
        kept = [rows[index] for index in kept]
        items, labels = [items[row] for row in kept], labels[kept]
        count = sum(item.split != "test" for item in items)
        validation = np.array([row for row, item in enumerate(items) if item.split == "validation"], dtype=np.int64)
        tested = any(item.split == "test" for item in self.items)
        return Raw(
            images[:count],
            labels[:count],
            class_names,
            test_images=images[count:] if tested else None,
            test_labels=labels[count:] if tested else None,
            validation=validation if len(validation) else None,
            groups=None if groups is None else groups[kept][:count],
            names=[item.name for item in items],
            skipped=[*self.skipped, *skipped],
        )

    def _classes(self, items: list[Item]) -> tuple[tuple[str, ...], NDArray[Any]]:
        """Names of the classes, and the number of each item's class, int64 [item]."""
        labels = [item.label for item in items]
        texts = {isinstance(label, str) for label in labels}
        if len(texts) > 1:
            other = next(item for item in items if isinstance(item.label, str) != isinstance(labels[0], str))
            raise DataError(
                f"{other.name}: expected a label like that of {items[0].name}, {labels[0]!r}, got {other.label!r}; "
                "write all labels alike, as texts or as numbers"
            )
        if texts == {True}:
            if self.class_names is None:
                check_task([str(label) for label in labels], self.where)
            names = self.class_names or tuple(sorted({str(label) for label in labels}, key=_numbers_first))
            numbers = {name: number for number, name in enumerate(names)}
            return names, np.array([numbers[str(label)] for label in labels], dtype=np.int64)
        found = np.array(labels, dtype=np.int64)
        return (self.class_names, found) if self.class_names is not None else numbered(found)

    def _groups(self, items: list[Item]) -> NDArray[Any] | None:
        """Number of the group of each item, int64 [item]; ``None``: there are none."""
        if all(item.group is None for item in items):
            return None
        first: dict[str | None, Item] = {}
        for item in items:
            if first.setdefault(item.group, item).split != item.split:
                raise DataError(
                    f"{item.name}: expected every group in one split, got {item.group!r} in "
                    f"{first[item.group].split} and {item.split}; mend the splits, or leave --group-column out"
                )
        numbers = {group: number for number, group in enumerate(first)}
        return np.array([numbers[item.group] for item in items], dtype=np.int64)


_MOST_STREAMED = 100_000


def check_streamed(count: int, where: str) -> None:
    """Refuse a stream that goes on beyond what is read of one.

    Raises:
        DataError: It has given more images than that.
    """
    if count > _MOST_STREAMED:
        raise DataError(
            f"{where}: expected a stream of at most {_MOST_STREAMED:,} images, as a search keeps all of them, got "
            "more; give a part of it, such as stream.shuffle(seed=0).take(50_000)"
        )


def joined(where: str, parts: Sequence[Listing]) -> Listing:
    """One listing of several; where they number the same classes in another order, they are matched by name.

    Args:
        where: The source, as messages name it.
        parts: Listings of its files or splits.

    Raises:
        DataError: If they name other classes.
    """
    filled = [part for part in parts if part.items] or list(parts)
    known, items = filled[0].class_names, list(filled[0].items)
    for part in filled[1:]:
        items += part.items if part.class_names == known else _translated(part, filled[0])
    return Listing(where, items, known, [entry for part in parts for entry in part.skipped])


def _translated(part: Listing, first: Listing) -> list[Item]:
    """The items of a part with the numbers that the first gives to the classes of these names."""
    own, known = part.class_names, first.class_names
    if own is None or known is None or set(own) != set(known) or len(set(own)) != len(own):
        given = [", ".join(names) if names else "none" for names in (known, own)]
        raise DataError(
            f"{part.where}: expected the class names of {first.where} ({given[0]}), got {given[1]}; write both alike"
        )
    numbers = [known.index(name) for name in own]
    for item in part.items:
        if not (isinstance(item.label, int) and 0 <= item.label < len(own)):
            raise DataError(f"{item.name}: expected a label from 0 to {len(own) - 1}, got {item.label!r}; mend it")
    return [replace(item, label=numbers[int(item.label)]) for item in part.items]


def _numbers_first(name: str) -> tuple[int, int, str]:
    """Key that sorts 2 before 10, and numbers before other names."""
    return (0, int(name), name) if name.isdecimal() and len(name) < 19 else (1, 0, name)


def numbered(numbers: NDArray[Any]) -> tuple[tuple[str, ...], NDArray[Any]]:
    """Name classes by the numbers that occur, in order (1 … 10 as well as 0 … 9)."""
    occurring = np.unique(numbers)
    if len(occurring) and occurring[0] < 0:  # usually "not labeled": let the check name the row
        return tuple(str(number) for number in range(int(occurring[-1]) + 1)), numbers
    return tuple(map(str, occurring.tolist())), np.searchsorted(occurring, numbers)
