"""Folders of images: a sub-folder for each class, or folders of splits that hold such."""

from graftwork.datasets._listing import Item, Listing, SplitName, split_named
from graftwork.datasets._walk import IMAGE_SUFFIXES, Entry, Parts, Tree, shown
from graftwork.errors import DataError


def has_classes(tree: Tree) -> bool:
    """Whether images lie in at least two folders, as those of classes do, that are not all called like splits."""
    filled = [name for name in tree.children(()) if tree.images((name,))]
    flat = all(split_named(name) is not None and tree.loose((name,)) for name in filled)
    return len(filled) >= 2 and not flat


def list_folder(tree: Tree) -> Listing:
    """List a folder with a sub-folder for each class, or ``train/``, ``val/`` and ``test/`` folders of these.

    Raises:
        DataError: If it is built in another way, or the splits have other classes.
    """
    roots = _roots(tree)
    root = roots["train"]
    classes = tree.children(root)
    if len(classes) < 2:
        loose = len(tree.loose(root))
        raise DataError(
            f"{tree.name(root)}: expected a sub-folder for each of at least two classes, got "
            f"{', '.join(map(shown, classes)) or 'none'}" + (f" and {loose} images that are in none" if loose else "")
        )
    items: list[Item] = []
    used: list[Entry] = []
    for split, folder in roots.items():
        _compare(tree, folder, classes)
        for label, name in enumerate(classes):
            files = _images_of(tree, (*folder, name))
            items += [Item(tree.name(entry.parts), entry.file, label, split) for entry in files]
            used += files
    return Listing(str(tree.root), items, tuple(map(shown, classes)), tree.passed_over(used))


def _roots(tree: Tree) -> dict[SplitName, Parts]:
    """Folder of each split, training first; the whole where no folders are named like splits."""
    named: dict[SplitName, str] = {}
    for name in tree.children(()):
        split = split_named(name)
        if split is not None and named.setdefault(split, name) != name:
            raise DataError(
                f"{shown(tree.root)}: expected one folder for {split}, got {named[split]} and {name}; take one away"
            )
    classes = sorted(name for name in named.values() if tree.loose((name,)))
    if not named or len(classes) == len(named):  # classes that are called so
        return {"train": ()}
    if classes:
        raise DataError(
            f"{shown(tree.root)}: expected folders of classes in {', '.join(sorted(named.values()))}, got images in "
            f"{', '.join(classes)} itself; move them into a folder of their class"
        )
    if "train" not in named:
        if len(named) < len(tree.children(())):
            return {"train": ()}
        raise DataError(
            f"{shown(tree.root)}: expected a folder train beside {', '.join(sorted(named.values()))}, got none; "
            "add it, or name one of these folders"
        )
    order: tuple[SplitName, ...] = ("train", "validation", "test")
    return {split: (named[split],) for split in order if split in named}


def _compare(tree: Tree, folder: Parts, classes: list[str]) -> None:
    extra = sorted(set(tree.children(folder)).symmetric_difference(classes))
    if extra:
        raise DataError(
            f"{tree.name(folder)}: expected the classes of the training folder, got a difference in "
            f"{', '.join(map(shown, extra))}"
        )


def _images_of(tree: Tree, folder: Parts) -> list[Entry]:
    files = tree.images(folder)
    if not files:
        raise DataError(
            f"{tree.name(folder)}: expected images of the class, files ending in {', '.join(IMAGE_SUFFIXES)}, "
            "got none; add some, or remove the folder"
        )
    return files
