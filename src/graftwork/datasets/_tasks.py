"""Labels that are not one class an image: of several classes, of numbers, of boxes or masks."""

from collections.abc import Sequence

from graftwork.errors import DataError

OTHER_TASKS = (
    "a search finds classifiers with one class an image; for several labels, numbers, boxes or masks grow a network of "
    "yours in its own training loop (graftwork.grow, docs/how-to/training-loops.md)"
)
"""What to do where data are of another task."""

_NUMBERS = 20
"""Numbers with fractions of which more than so many differ are measurements, not names of classes."""

_SEPARATORS = ("|", ";", ",")


def check_task(labels: Sequence[str], where: str) -> None:
    """Refuse labels that say several classes of an image, or measure something.

    Args:
        labels: Label of each image, as a text.
        where: The source, as messages name it.

    Raises:
        DataError: If they do.
    """
    different = set(labels)
    if len(different) > _NUMBERS and _are_measured(different):
        raise DataError(
            f"{where}: expected the name or number of a class as each label, got {len(different):,} different numbers "
            f"such as {min(different)}, as for regression; {OTHER_TASKS}"
        )
    several = next((label for label in sorted(different) if label[:1] + label[-1:] == "[]"), None)
    several = several or next((found for one in _SEPARATORS if (found := _several(different, one))), None)
    if several is not None:
        raise DataError(f"{where}: expected one class an image, got several in the label {several!r}; {OTHER_TASKS}")


def _are_measured(labels: set[str]) -> bool:
    """Whether all are numbers, and some have a fraction."""
    try:
        return any(not float(label).is_integer() for label in labels)
    except (ValueError, OverflowError):
        return False


def _several(labels: set[str], separator: str) -> str | None:
    """A label that names several others, if these are fewer than they would be as names of their own."""
    parts = {label: {part.strip() for part in label.split(separator)} for label in labels}
    joined = sorted(label for label, found in parts.items() if len(found) > 1)
    single = labels - set(joined)
    found = next((label for label in joined if parts[label] <= single), None)
    return found if found is not None and len(set[str]().union(*parts.values())) < len(labels) else None
