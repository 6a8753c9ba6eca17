"""load_dataset: what ``--data`` takes."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from graftwork._files import parse_json, read_bytes, scratch, write_json
from graftwork.datasets._archive import ARCHIVES, is_archive, unpack
from graftwork.datasets._arrays import list_npz
from graftwork.datasets._cache import cached, in_memory, source_key, state_of
from graftwork.datasets._dataset import ImageDataset
from graftwork.datasets._decode import decoding_seconds
from graftwork.datasets._folders import has_classes, list_folder
from graftwork.datasets._letters import read_letters
from graftwork.datasets._listing import Item, Listing, Raw, ReadOptions, joined
from graftwork.datasets._places import cache_folder
from graftwork.datasets._samples import has_samples, list_samples
from graftwork.datasets._sheets import SHEETS, finder, list_sheets, read_sheet
from graftwork.datasets._sources import cifar_files, read_cifar, read_digits
from graftwork.datasets._survey import LARGEST_UNASKED, Survey, survey_images
from graftwork.datasets._walk import IMAGE_SUFFIXES, Entry, Tree, shown, walk
from graftwork.errors import DataError, GraftworkError

_CONTENT = {*IMAGE_SUFFIXES, *SHEETS, ".cls", ".json"}
"""Endings of files that a change of which is a change of the data."""


class _Source(NamedTuple):
    """How a path is read.

    Args:
        listed: Lists it, or reads what is made of arrays; takes an empty folder in which archives may be spread out.
        files: The files that make up the data set.
        beside: Names of what lies beside them and is passed over.
    """

    listed: Callable[[Path], Listing | Raw]
    files: list[Path]
    beside: tuple[str, ...] = ()

    def state(self) -> str:
        """Hash of all that makes it up: equal while nothing has changed."""
        return source_key(state_of(self.files), self.beside)


def load_dataset(
    source: Any = "digits",
    *,
    cache_dir: Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    image_root: str | Path | None = None,
    skip_bad_images: bool = False,
    max_images: int | None = None,
) -> ImageDataset:
    """Load an image classification data set; what lies on disk is decoded once, then memory-mapped from a cache.

    Args:
        source: ``"digits"`` (scikit-learn's, bundled); ``"letters"`` (rendered with matplotlib's fonts); a folder with
            a sub-folder for each class (or with ``train/``, ``val/`` and ``test/`` folders of this kind), or a zip or
            tar of one; a CSV or TSV file of paths and labels; a parquet file, or a folder of them, in the Hugging Face
            schema; shards of WebDataset; NumPy's ``.npz``; CIFAR for Python; or the name of a Hugging Face data set.
            From Python also a pandas frame, a pair of images and labels, a ``torch.utils.data.Dataset``, a Hugging Face
            ``Dataset``, a stream of either (read to its end, at most 100,000 images), or a dict of these by split;
            an `ImageDataset` is returned as it is.
        cache_dir: Folder of the cache; ``None``: ``$GRAFTWORK_CACHE``, or the user's cache folder.
        image_size: Side (or height and width) that images are brought to; ``None``: the frame of `Survey`, with at most
            as many pixels as 64×64.
        image_column: Column of a table that holds the images or their paths; ``None``: the only one that does.
        label_column: Column of a table that holds the labels; ``None``: ``label`` or another usual name.
        group_column: Column of a table whose values, such as patients, are each kept in one split; ``None``: none.
        image_root: Folder that paths in a table begin from, and must lie below; ``None``: the table's own folder.
        skip_bad_images: Whether images that can't be read are left out and recorded; otherwise they are an error.
        max_images: About how many images are decoded, in proportion to the classes but at least 20 of each; the others
            are left out, as of a large source in a hurry. ``None``: all.

    Raises:
        DataError: If there is no such source, or it can't be read or used; the message names the file.
        ResourceError: If the disk is full.
    """
    if isinstance(source, ImageDataset):
        return source
    root = None if image_root is None else str(image_root)
    options = ReadOptions(image_size, image_column, label_column, group_column, root, skip_bad_images, max_images)
    if not isinstance(source, str | Path):
        from graftwork.datasets._objects import list_objects

        listing = list_objects(source, options)
        return in_memory(listing.read(options), name=listing.where)
    if str(source) == "digits":
        if image_size is not None:
            raise DataError(f"data: expected no image_size for digits, which are 8×8, got {image_size!r}; leave it out")
        return cached("digits", read_digits, name="digits", source="digits", folder=cache_dir)
    path = Path(source).expanduser()
    if str(source) == "letters" and not path.exists():
        if image_size is not None:
            raise DataError(
                f"data: expected no image_size for letters, which are 16×16, got {image_size!r}; leave it out"
            )
        key = f"letters-{source_key('', (version('matplotlib'), version('pillow')))}"
        return cached(key, read_letters, name="letters", source="letters", folder=cache_dir)
    if not path.exists():
        return _load_hub(source, path, options, cache_dir)
    found = _source(path, options)
    key = source_key(found.state(), options)
    top = cache_dir or cache_folder()

    def read_unchanged() -> Raw:
        with scratch(top, f"{key}-unpacked") as room:
            listed = found.listed(room)
            raw = listed.read(options) if isinstance(listed, Listing) else listed
        if source_key(found.state(), options) != key:
            raise DataError(
                f"data: expected files that stay as they are, got {path}, which changed while it was read; wait until "
                "it is complete and try again"
            )
        return raw

    return cached(key, read_unchanged, name=path.name, source=str(path), folder=cache_dir)


def survey(source: str | Path, **how: Any) -> Survey | None:
    """Look at the images of a folder or file, of which a few are decoded; what is found is kept in the cache.

    Args:
        source: As of `load_dataset`.
        **how: Further arguments of `load_dataset` that are options of reading, but for sizes.

    Returns:
        What is known; ``None`` where there is nothing to choose: digits, CIFAR, and names of Hugging Face data sets.

    Raises:
        DataError: If the source can't be read.
    """
    options, path = ReadOptions(**how), Path(source).expanduser()
    if str(source) == "digits" or not path.exists():
        return None
    found = _source(path, options)
    state = found.state()
    key = source_key(state, options)
    kept = cache_folder() / f"{key}.facts.json"
    with suppress(OSError, GraftworkError, TypeError):
        return Survey(**parse_json(read_bytes(kept), str(kept)), state=state)
    with scratch(cache_folder(), f"{key}-unpacked") as room:
        listed = found.listed(room)
        if not isinstance(listed, Listing):
            return None
        pictures = [item.picture for item in listed.items]
        facts = survey_images(pictures)
        seconds = len(pictures) * decoding_seconds(pictures, facts.frame(LARGEST_UNASKED))
    facts = replace(facts, num_classes=listed.num_classes, decoding_seconds=seconds)
    with suppress(GraftworkError):  # it is looked at again next time
        write_json(kept, {name: value for name, value in asdict(facts).items() if name != "state"})
    return replace(facts, state=state)


def is_decoded(found: Survey, *, image_size: int | tuple[int, int], **how: Any) -> bool:
    """Whether all images of a source that was surveyed are in the cache at this size; ``how`` as in `survey`."""
    return (cache_folder() / source_key(found.state, ReadOptions(image_size, **how))).is_dir()


def _load_hub(source: str | Path, path: Path, options: ReadOptions, cache_dir: Path | None) -> ImageDataset:
    """Load a data set by name, where there is no file or folder of this name."""
    if not isinstance(source, str) or path.suffix or path.is_absolute() or source.count("/") > 1:
        raise DataError(
            f"data: expected digits, letters, a folder, a file or a Hugging Face name, got {source}, which is not there"
        )
    from graftwork.datasets._tables import list_hub, open_hub

    state, splits = open_hub(source)
    key = f"hub-{source_key(state, (source, options))}"
    return cached(
        key, lambda: list_hub(source, splits, options).read(options), name=source, source=source, folder=cache_dir
    )


def _source(path: Path, options: ReadOptions) -> _Source:
    """How a path is read, by its ending and, for a folder, by what lies in it."""
    if path.is_dir():
        return _folder(walk(path), path, options)
    if not path.is_file():
        raise DataError(f"data: expected a folder or a file, got {path}, which is a pipe or device; name another")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _Source(lambda _: _list_parquet([path], path, options), [path])
    if suffix in SHEETS:
        listings = list_sheets([path], options)
        return _Source(lambda _: joined(shown(path), listings), [path, *_files_of(listings)])
    _refuse(options, path, "image_root")
    if suffix == ".npz":
        _refuse(options, path, "group_column")
        return _Source(lambda _: joined(shown(path), list_npz(path)), [path])
    if is_archive(path):
        return _Source(partial(_list_archives, [path], path, options), [path])
    raise DataError(
        f"data: expected a folder, or a file of .parquet, .npz, {', '.join((*SHEETS, *ARCHIVES))}, got {path}"
    )


def _folder(tree: Tree, path: Path, options: ReadOptions) -> _Source:
    files = [(entry.suffix, entry.file) for entry in tree.entries if isinstance(entry.file, Path)]
    images = sum(suffix in IMAGE_SUFFIXES for suffix, _ in files)
    tables = [file for suffix, file in files if suffix == ".parquet"]
    if tables and images:
        raise DataError(
            f"data: {path}: expected images or tables, got {images} images and {len(tables)} tables, such as "
            f"{tables[0].relative_to(path)}; name the folder or the file that is meant"
        )
    if tables:
        return _Source(lambda _: _list_parquet(tables, path, options), tables)
    _refuse(options, path, "image_root")
    if found := cifar_files(tree):
        batches = [file for file in found.values() if isinstance(file, Path)]
        return _Source(lambda _: read_cifar(found, path, options), batches)
    archives = [file for _, file in files if is_archive(file)]
    if archives and not images:
        return _Source(partial(_list_archives, archives, path, options), archives)
    if not images and not tree.children(()):
        but = "".join(f"; {name} is {reason}" for name, reason in tree.skipped[:3])
        raise DataError(
            f"data: expected sub-folders of images ({', '.join(IMAGE_SUFFIXES)}), a table, archives or CIFAR batches "
            f"in {path}, got none of them{but}"
        )
    content = [file for suffix, file in files if suffix in _CONTENT]
    beside = [*sorted(str(file) for suffix, file in files if suffix not in _CONTENT), str(tree.skipped)]
    return _Source(lambda _: _list_tree(tree, options), [path, *content], tuple(beside))


def _refuse(options: ReadOptions, path: Path, name: str) -> None:
    """Refuse an option that says something about a table, where none is read."""
    if getattr(options, name) is not None:
        flag = "--" + name.replace("_", "-")
        raise DataError(f"{shown(path)}: expected a table of images for {flag}, got other data; name the table itself")


def _list_parquet(files: list[Path], where: Path, options: ReadOptions) -> Listing:
    from graftwork.datasets._tables import list_parquet  # pyarrow takes a tenth of a second, also where none is read

    return list_parquet(files, where, options)


def _list_archives(archives: list[Path], path: Path, options: ReadOptions, room: Path) -> Listing | Raw:
    trees = [unpack(archive, room / str(number)) for number, archive in enumerate(archives)]
    if len(trees) == 1 and (found := cifar_files(trees[0])):
        return read_cifar(found, path, options)
    return joined(shown(path), [_list_tree(tree, options) for tree in trees])


def _list_tree(tree: Tree, options: ReadOptions) -> Listing:
    """List a folder or an archive: samples of WebDataset, folders of classes, or images that a table lists."""
    if has_samples(tree):
        return list_samples(tree, options)
    sheets = [entry for entry in tree.entries if len(entry.parts) == 1 and entry.suffix in SHEETS]
    if not sheets or has_classes(tree):
        _refuse(options, tree.root, "group_column")
        return list_folder(tree)
    if len(sheets) > 1:
        raise DataError(
            f"{shown(tree.root)}: expected one table of paths and labels, got "
            f"{', '.join(entry.parts[0] for entry in sheets)}; name the one that is meant"
        )
    return _list_by_sheet(tree, sheets[0], options)


def _list_by_sheet(tree: Tree, sheet: Entry, options: ReadOptions) -> Listing:
    """List the images of a tree that a table in it names; no other file is read, also not by way of a link."""
    known = {entry.parts: entry for entry in tree.entries}
    used, below = [sheet], finder(tree.root)

    def find(path: str, where: str) -> Any:
        parts = tuple(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))
        if parts not in known:
            raise DataError(f"{where}: expected the path of a file in {shown(tree.root)}, got {ascii(path)[:80]}")
        used.append(known[parts])
        file = known[parts].file
        return below("/".join(parts), where) if isinstance(file, Path) else file  # of an archive: no link

    found = read_sheet(sheet.file, Path(sheet.parts[0]), where=tree.name(sheet.parts)).listing(options, find)
    found.skipped += tree.passed_over(used)
    return found


def _files_of(listings: list[Listing]) -> list[Path]:
    """The files of images that are there, of those that tables name."""
    items: list[Item] = [item for listing in listings for item in listing.items]
    files = {item.picture for item in items if isinstance(item.picture, Path)}
    return sorted(file for file in files if file.is_file())
