"""What is there twice in a data set: how many images, which, and in which splits."""

from dataclasses import dataclass

import numpy as np

from graftwork.datasets._dataset import ImageDataset, Labels
from graftwork.datasets._splits import Splits

_SHOWN, _NAMED = 1, 100
_MANY = 0.01
"""Share of held-out images from which on those that look like training images are warned of."""
_PLACES = ("train", "validation", "blend", "test")


@dataclass(frozen=True, eq=False)
class Repeats:
    """Pairs of images that are the same or look alike; rows of the test split follow those of the others.

    Args:
        same: Each image that has the pixels of an earlier one, with that one, int64 [pair, 2].
        disputed: Those of them that have another class.
        alike: Each image outside of the training split, with a training image that looks much like it.
        num_alike: Number of all images that look much like another.
    """

    same: Labels
    disputed: Labels
    alike: Labels
    num_alike: int

    @classmethod
    def find(cls, dataset: ImageDataset, splits: Splits) -> "Repeats":
        """Look for them; there are none where the data set does not know."""
        none = np.zeros((0, 2), dtype=np.int64)
        if dataset.copies is None or dataset.alike is None:
            return cls(none, none, none, 0)
        count = len(dataset.images)
        labels = np.concatenate([dataset.labels, *([] if dataset.test_labels is None else [dataset.test_labels])])
        _, first, numbers = np.unique(dataset.copies, return_index=True, return_inverse=True)
        earlier = first[numbers]
        again = np.flatnonzero(earlier != np.arange(len(earlier)))
        same = np.stack([earlier[again], again], axis=1)
        place = np.full(len(labels), -1)
        for number, name in enumerate(_PLACES):
            rows = getattr(splits, name)
            place[rows + count if name == "test" and dataset.test_images is not None else rows] = number
        rows = np.flatnonzero((dataset.alike >= 0) & (place > 0))
        rows = rows[place[dataset.alike[rows]] == 0]
        alike = np.stack([rows, dataset.alike[rows]], axis=1)
        return cls(
            same, same[labels[same[:, 0]] != labels[same[:, 1]]], alike, int(np.count_nonzero(dataset.alike >= 0))
        )

    def describe(self, dataset: ImageDataset, splits: Splits) -> dict[str, object]:
        """Numbers, and the names of disputed and left-out images, as plain data."""
        return {
            "same_pixels": len(self.same),
            "same_pixels_other_class": [[dataset.name_of(row) for row in pair] for pair in self.disputed.tolist()],
            "left_out": [dataset.name_of(row) for row in splits.left_out.tolist()],
            "much_alike": self.num_alike,
            "much_alike_across_splits": len(self.alike),
            "much_alike_named": [[dataset.name_of(row) for row in pair] for pair in self.alike[:_NAMED].tolist()],
        }

    def warnings(self, dataset: ImageDataset, splits: Splits) -> list[str]:
        """What to keep in mind, a sentence each."""
        found = []
        if len(self.same):
            found.append(
                f"{_images(len(self.same))} the pixels of another, {_pairs(dataset, self.same)}; copies are kept "
                "in one split"
            )
        if len(self.disputed):
            found.append(
                f"{_images(len(self.disputed))} the pixels of one of another class, {_pairs(dataset, self.disputed)}; "
                "look at their labels"
            )
        if len(splits.left_out):
            names = ", ".join(dataset.name_of(row) for row in splits.left_out[:_SHOWN].tolist())
            found.append(
                f"{_images(len(splits.left_out))} the pixels of one in a held-out split and so "
                f"{_verb(splits.left_out)} left out: {names}{_more(splits.left_out)}"
            )
        held = sum(len(getattr(splits, name)) for name in _PLACES[1:])
        if len(self.alike) > _MANY * held:
            found.append(
                f"{len(self.alike)} of {held:,} held-out images look much like training images, "
                f"{_pairs(dataset, self.alike)}: accuracy on them says little about new images "
                "(a group column keeps together what belongs together)"
            )
        return found


def _images(number: int) -> str:
    return "1 image has" if number == 1 else f"{number:,} images have"


def _verb(rows: Labels) -> str:
    return "is" if len(rows) == 1 else "are"


def _more(rows: Labels) -> str:
    return ", …" if len(rows) > _SHOWN else ""


def _pairs(dataset: ImageDataset, pairs: Labels) -> str:
    shown = (f"{dataset.name_of(a)} and {dataset.name_of(b)}" for a, b in pairs[:_SHOWN].tolist())
    return "; ".join(shown) + _more(pairs)
