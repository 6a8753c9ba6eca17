"""Data that a Python program holds: frames, arrays, data sets of torch and of Hugging Face, and dicts of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from graftwork.datasets._arrays import list_arrays
from graftwork.datasets._listing import Item, Listing, ReadOptions, SplitName, check_streamed, joined, split_named
from graftwork.datasets._sheets import LABEL_NAMES, Sheet, finder
from graftwork.errors import DataError

_ANYWHERE = Path(Path.cwd().anchor)
"""What a program names is read wherever it is."""
_IMAGE_KEYS = ("image", "img", "pixel_values", "x")


def list_objects(source: Any, options: ReadOptions) -> Listing:
    """List what `load_dataset` takes beside names and paths.

    Args:
        source: A pandas frame; a pair of images and labels; a ``torch.utils.data.Dataset`` of pairs (or dicts) of image
            and label; a Hugging Face ``Dataset``; a stream of either (``IterableDataset``), which is read to its end;
            or a dict of these whose keys are splits.
        options: How columns are read.

    Raises:
        DataError: If it is something else, or can't be used.
    """
    if not isinstance(source, Mapping):
        return _list_one(source, options, "train")
    splits = {key: split_named(key) for key in source}
    if _is_hugging_face(next(iter(source.values()), None)):
        from graftwork.datasets._tables import list_hub

        return list_hub("dataset", {str(key): part for key, part in source.items()}, options)
    unknown = [repr(key) for key, split in splits.items() if split is None]
    if unknown or not source:
        raise DataError(f"data: expected train, validation and test as keys, got {', '.join(unknown) or 'none'}")
    ordered = sorted(source, key=lambda key: splits[key] != "train")
    return joined("data", [_list_one(source[key], options, splits[key] or "train") for key in ordered])


def _list_one(source: Any, options: ReadOptions, split: SplitName) -> Listing:
    if _is_hugging_face(source):
        from graftwork.datasets._tables import list_hub

        return list_hub("dataset", {split: source}, options)
    if type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "columns"):
        columns = {str(name): source[name].tolist() for name in source.columns}
        if len(columns) < len(source.columns):
            raise DataError(f"frame: expected a name for every column, got {', '.join(columns)}; rename the equal ones")
        find = finder(Path(options.image_root or _ANYWHERE), begin=Path(options.image_root or "."))
        return Sheet("frame", columns).listing(options, find, split=split)
    if isinstance(source, tuple) and len(source) == 2:
        return _list_pair(*source, split=split)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, bytes):
        return _list_items(source, (source[index] for index in range(len(source))), split)
    if hasattr(source, "__iter__") and not hasattr(source, "__len__"):
        return _list_items(source, source, split)
    raise DataError(
        f"data: expected a path, a name, a frame, a pair of images and labels, a data set or a stream of pairs, got "
        f"{type(source).__name__}; give one of these"
    )


def _is_hugging_face(source: object) -> bool:
    return type(source).__module__.partition(".")[0] == "datasets" and hasattr(source, "features")


def _list_pair(images: Any, labels: Any, *, split: SplitName) -> Listing:
    where = "images"
    if isinstance(images, list | tuple):
        cells = [_plain(image) for image in images]
        if len(cells) != len(labels):
            raise DataError(f"{where}: expected a label for each of {len(cells)} images, got {len(labels)} labels")
        return _sheet(where, cells, [_plain_label(label) for label in labels], split)
    return list_arrays(np.asarray(_plain(images)), np.asarray(_plain(labels)), where, split=split)


def _list_items(source: Any, items: Iterable[Any], split: SplitName) -> Listing:
    """List the items of a data set or stream, each of which is asked for once."""
    where = type(source).__name__
    cells, labels = [], []
    for index, item in enumerate(items):
        if items is source:
            check_streamed(index + 1, where)
        image, label = _pair(item, f"{where}: item {index}")
        cells.append(_plain(image))
        labels.append(_plain_label(label))
    found = _sheet(where, cells, labels, split)
    names = _class_names(source)
    if names is not None and all(isinstance(item.label, int) and 0 <= item.label < len(names) for item in found.items):
        found.class_names = names
    return found


def _pair(item: Any, where: str) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        image = next((item[key] for key in _IMAGE_KEYS if key in item), None)
        label = next((item[key] for key in LABEL_NAMES if key in item), None)
        if image is not None and label is not None:
            return image, label
    elif isinstance(item, Sequence) and len(item) == 2:
        return item[0], item[1]
    got = ", ".join(map(str, item)) if isinstance(item, Mapping) else type(item).__name__
    raise DataError(f"{where}: expected an image and its label, got {got}; let the data set give such pairs")


def _class_names(source: Any) -> tuple[str, ...] | None:
    """Names of the classes that data sets of torchvision carry, also below ``Subset``."""
    while not hasattr(source, "classes") and hasattr(source, "dataset"):
        source = source.dataset
    names = getattr(source, "classes", None)
    plain = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if plain and names else None


def _plain(image: Any) -> Any:
    """An image, or a batch of them, without torch: tensors as arrays, channels last."""
    if isinstance(image, np.ndarray | Image.Image | str | bytes | Path):
        return image
    if hasattr(image, "detach"):
        image = image.detach().cpu().numpy()
    return np.asarray(image)


def _plain_label(label: Any) -> Any:
    return label.item() if hasattr(label, "item") else label


def _sheet(where: str, cells: list[Any], labels: list[Any], split: SplitName) -> Listing:
    options = ReadOptions(image_column="image", label_column="label")
    find = finder(_ANYWHERE, begin=Path())
    found = Sheet(where, {"image": cells, "label": labels}).listing(options, find, split=split)
    items: list[Item] = [replace(item, name=item.name.replace(": row ", ": item ", 1)) for item in found.items]
    return Listing(where, items)
