"""load_dataset: what ``--data`` takes."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from graftwork.datasets._cache import cached, source_key
from graftwork.datasets._dataset import ImageDataset
from graftwork.datasets._decode import Progress, decoding_seconds
from graftwork.datasets._places import cache_folder
from graftwork.datasets._sources import (
    Raw,
    ReadOptions,
    is_cifar_folder,
    read_cifar,
    read_digits,
    read_folder,
)
from graftwork.datasets._survey import LARGEST_UNASKED, Survey, survey_images
from graftwork.datasets._walk import IMAGE_SUFFIXES, files_below, images_among
from graftwork.errors import DataError

_ARCHIVES = (".tar.gz", ".tgz", ".tar")


def load_dataset(
    source: str | Path = "digits",
    *,
    cache_dir: Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    skip_bad_images: bool = False,
    max_images: int | None = None,
    progress: Progress | None = None,
) -> ImageDataset:
    """Load an image classification data set; it is decoded once, then memory-mapped from a cache.

    Args:
        source: ``"digits"`` (scikit-learn's, bundled); a parquet file or a folder of them in the Hugging Face schema;
            CIFAR's Python folder or its ``.tar.gz``; a folder with a sub-folder for each class (or with ``train/`` and
            ``test/`` folders of this kind); or the name of a Hugging Face data set.
        cache_dir: Folder of the cache; ``None``: ``$GRAFTWORK_CACHE``, or the user's cache folder.
        image_size: Side (or height and width) that images are brought to; ``None``: the frame of `Survey`, with at most
            as many pixels as 64×64.
        image_column: Column of a table that holds the images; ``None``: the only one with encoded images.
        label_column: Column of a table that holds the labels; ``None``: ``label`` or another usual name.
        skip_bad_images: Whether images that can't be read are left out and recorded; otherwise they are an error.
        max_images: About how many images are decoded, in proportion to the classes but at least 20 of each; the others
            are left out, as of a large source in a hurry. ``None``: all.
        progress: Hears how far decoding is; ``None``: nobody does.

    Raises:
        DataError: If there is no such source, or it can't be read or used; the message names the file.
        ResourceError: If the disk is full.
    """
    options = ReadOptions(image_size, image_column, label_column, skip_bad_images, max_images, progress)
    if str(source) == "digits":
        if image_size is not None:
            raise DataError(f"data: expected no image_size for digits, which are 8×8, got {image_size!r}; leave it out")
        return cached("digits", lambda: read_digits(options), name="digits", source="digits", folder=cache_dir)
    path = Path(source).expanduser()
    if not path.exists():
        if _may_be_on_hub(source):
            from graftwork.datasets._tables import open_hub, read_hub

            state, splits = open_hub(str(source))
            key = f"hub-{source_key([], (source, state, options))}"
            read_named = partial(read_hub, str(source), splits, options)
            return cached(key, read_named, name=str(source), source=str(source), folder=cache_dir)
        raise DataError(
            f"data: expected digits, a folder, a file or a Hugging Face name, got {source}, which is not there"
        )
    read, files = _reader(path, options)
    key = source_key(files, options)

    def read_unchanged() -> Raw:
        raw = read()
        if source_key(files, options) != key:
            raise DataError(
                f"data: expected files that stay as they are, got {path}, which changed while it was read; wait until "
                "it is complete and try again"
            )
        return raw

    return cached(key, read_unchanged, name=path.name, source=str(path), folder=cache_dir)


def survey(source: str | Path, *, image_column: str | None = None) -> Survey | None:
    """Look at the images of a source, of which a few are decoded; ``None`` where their size is known (digits, CIFAR).

    Args:
        source: As of `load_dataset`.
        image_column: As of `load_dataset`.

    Raises:
        DataError: If the source can't be read.
    """
    pictures, count = _pictures(source, ReadOptions(image_column=image_column))
    if not pictures:
        return None
    found = survey_images(pictures, num_images=count)
    return replace(found, decoding_seconds=count * decoding_seconds(pictures, found.frame(LARGEST_UNASKED)))


def _pictures(source: str | Path, options: ReadOptions) -> tuple[list[Path | bytes], int]:
    """Some images of a source, and the number of all; none where their size is known."""
    path = Path(source).expanduser()
    if str(source) == "digits":
        return [], 0
    if not path.exists():
        if not _may_be_on_hub(source):
            return [], 0
        from graftwork.datasets._tables import open_hub, sample_hub

        return sample_hub(str(source), open_hub(str(source))[1], options)
    _, files = _reader(path, options)
    if files[0].suffix == ".parquet":
        from graftwork.datasets._tables import sample_parquet

        return sample_parquet(files, options)
    images: list[Path | bytes] = [*images_among(files)]
    return images, len(images)


def is_decoded(source: str | Path, *, image_size: tuple[int, int], **how: Any) -> bool:
    """Whether all images of a folder or file are in the cache at this size.

    Args:
        source: As of `load_dataset`.
        image_size: Height and width.
        **how: Further arguments of `load_dataset` that are options of reading.
    """
    path = Path(source).expanduser()
    if not path.exists():
        return False
    sizes: list[int | tuple[int, int]] = [image_size, image_size[0]]
    found = (ReadOptions(size, **how) for size in sizes[: 1 + (image_size[0] == image_size[1])])
    return any((cache_folder() / source_key(_reader(path, options)[1], options)).is_dir() for options in found)


def _may_be_on_hub(source: str | Path) -> bool:
    path = Path(source)
    return isinstance(source, str) and not path.suffix and not path.is_absolute() and source.count("/") <= 1


def _reader(path: Path, options: ReadOptions) -> tuple[Callable[[], Raw], list[Path]]:
    """The function that reads a path, and the files that make up the data set."""
    if path.is_file():
        if path.suffix == ".parquet":
            return partial(_read_tables, [path], options), [path]
        if path.name.lower().endswith(_ARCHIVES):
            return lambda: read_cifar(path, options), [path]
        raise DataError(f"data: expected a folder, or a file of .parquet, {', '.join(_ARCHIVES)}, got {path}")
    below = list(files_below(path))
    tables, files = sorted(file for file in below if file.suffix == ".parquet"), images_among(below)
    if tables and files:
        raise DataError(
            f"data: {path}: expected images or tables, got {len(files)} images and {len(tables)} tables, such as "
            f"{tables[0].relative_to(path)}; name the folder or the file that is meant"
        )
    if tables:
        return partial(_read_tables, tables, options), tables
    if is_cifar_folder(path):
        return lambda: read_cifar(path, options), sorted(p for p in path.iterdir() if p.is_file())
    if not files and not any(p.is_dir() for p in path.iterdir()):
        raise DataError(
            f"data: expected parquet files, CIFAR batches or sub-folders of images ({', '.join(IMAGE_SUFFIXES)}) in "
            f"{path}, got none of them"
        )
    return lambda: read_folder(path, options), [path, *files]


def _read_tables(paths: list[Path], options: ReadOptions) -> Raw:
    from graftwork.datasets._tables import read_parquet  # pyarrow takes a tenth of a second, also where none is read

    return read_parquet(paths, options)
