"""Samples of WebDataset: files of an archive that share a name, ``0001.jpg`` with its label in ``0001.cls``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftwork._files import parse_json
from graftwork.datasets._folders import has_classes
from graftwork.datasets._listing import Item, Listing, ReadOptions, split_of_file
from graftwork.datasets._sheets import LABEL_NAMES, group_of
from graftwork.datasets._walk import Entry, Parts, Slice, Tree
from graftwork.errors import DataError

_MOST = 2**20


def has_samples(tree: Tree) -> bool:
    """Whether a tree holds labels in files ``.cls``, or in ``.json`` beside images in no folders of classes."""
    if any(entry.suffix == ".cls" for entry in tree.entries):
        return True
    described = {_key(entry) for entry in tree.entries if entry.suffix == ".json"}
    return any(_key(entry) in described for entry in tree.images()) and not has_classes(tree)


def _key(entry: Entry) -> Parts:
    """What the files of a sample have in common: folder, and name up to the first dot."""
    return (*entry.parts[:-1], entry.parts[-1].partition(".")[0])


def list_samples(tree: Tree, options: ReadOptions) -> Listing:
    """List the samples of a shard, whose split is a word in its name (``train-000.tar``).

    Labels are numbers or texts in files ``.cls``; a label or group column is looked for in files ``.json``.

    Raises:
        DataError: If an image has no label.
    """
    samples: dict[Parts, dict[str, Entry]] = {}
    for entry in tree.entries:
        samples.setdefault(_key(entry), {})[entry.parts[-1].partition(".")[2].lower()] = entry
    split = split_of_file(tree.root)
    items, used = [], []
    for parts, files in samples.items():
        pictures = [entry for entry in files.values() if entry.is_image]
        if not pictures:
            continue
        name = tree.name(parts)
        if len(pictures) > 1:
            raise DataError(f"{name}: expected one image in a sample, got {', '.join(files)}; keep one")
        extra = _extra(files, name) if options.label_column or options.group_column or "cls" not in files else {}
        group = None if options.group_column is None else group_of(extra.get(options.group_column), name)
        label = _label(files, extra, name, options.label_column)
        items.append(Item(tree.name(pictures[0].parts), pictures[0].file, label, split, group))
        used += [pictures[0], *(files[ending] for ending in ("cls", "json") if ending in files)]
    return Listing(str(tree.root), items, skipped=tree.passed_over(used))


def _text(file: Path | Slice, name: str) -> bytes:
    size = file.size if isinstance(file, Slice) else file.stat().st_size
    if size > _MOST:
        raise DataError(f"{name}: expected at most {_MOST:,} bytes beside an image, got {size:,}; is it a label?")
    return file.read_bytes()


def _extra(files: Mapping[str, Entry], name: str) -> dict[str, Any]:
    if "json" not in files:
        return {}
    found = parse_json(_text(files["json"].file, name), f"{name}.json", error=DataError)
    return found if isinstance(found, dict) else {}


def _label(files: Mapping[str, Entry], extra: Mapping[str, Any], name: str, asked: str | None) -> int | str:
    if asked is None and "cls" in files:
        found: object = _text(files["cls"].file, name).decode("utf-8", "replace").strip()
    else:
        names = (asked,) if asked is not None else ("cls", *LABEL_NAMES)
        found = next((extra[key] for key in names if key in extra), None)
    if isinstance(found, str) and found:
        return int(found) if found.isdecimal() and len(found) < 19 else found
    if isinstance(found, int) and not isinstance(found, bool):
        return found
    raise DataError(
        f"{name}: expected a label in {name}.cls (or in .json, by --label-column), got none; add it or remove the image"
    )
