"""load_dataset: what ``--data`` takes."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

from graftwork.datasets._cache import cached, source_key
from graftwork.datasets._dataset import ImageDataset
from graftwork.datasets._letters import read_letters
from graftwork.datasets._sources import (
    Raw,
    ReadOptions,
    is_cifar_folder,
    read_cifar,
    read_digits,
    read_folder,
)
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
) -> ImageDataset:
    """Load an image classification data set; it is decoded once, then memory-mapped from a cache.

    Args:
        source: ``"digits"`` (scikit-learn's, bundled); ``"letters"`` (rendered with matplotlib's fonts); a parquet
            file or a folder of them in the Hugging Face schema; CIFAR's Python folder or its ``.tar.gz``; a folder with
            a sub-folder for each class (or with ``train/`` and ``test/`` folders of this kind); or the name of a
            Hugging Face data set.
        cache_dir: Folder of the cache; ``None``: ``$GRAFTWORK_CACHE``, or the user's cache folder.
        image_size: Side (or height and width) that images are brought to; ``None``: by the rules of
            `graftwork.datasets` ("how images are converted").
        image_column: Column of a table that holds the images; ``None``: the only one with encoded images.
        label_column: Column of a table that holds the labels; ``None``: ``label`` or another usual name.
        skip_bad_images: Whether images that can't be read are left out and recorded; otherwise they are an error.

    Raises:
        DataError: If there is no such source, or it can't be read or used; the message names the file.
        ResourceError: If the disk is full.
    """
    options = ReadOptions(image_size, image_column, label_column, skip_bad_images)
    if str(source) == "digits":
        if image_size is not None:
            raise DataError(f"data: expected no image_size for digits, which are 8×8, got {image_size!r}; leave it out")
        return cached("digits", lambda: read_digits(options), name="digits", source="digits", folder=cache_dir)
    path = Path(source).expanduser()
    if str(source) == "letters" and not path.exists():
        if image_size is not None:
            raise DataError(
                f"data: expected no image_size for letters, which are 16×16, got {image_size!r}; leave it out"
            )
        key = f"letters-{source_key([], (version('matplotlib'), version('pillow')))}"
        return cached(key, read_letters, name="letters", source="letters", folder=cache_dir)
    if not path.exists():
        if isinstance(source, str) and not path.suffix and not path.is_absolute() and source.count("/") <= 1:
            from graftwork.datasets._tables import open_hub, read_hub

            state, splits = open_hub(source)
            key = f"hub-{source_key([], (source, state, options))}"
            read_named = partial(read_hub, source, splits, options)
            return cached(key, read_named, name=source, source=source, folder=cache_dir)
        raise DataError(
            f"data: expected digits, letters, a folder, a file or a Hugging Face name, got {source}, which is not there"
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
