"""Tables of images: parquet files and Hugging Face data sets."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graftwork._files import damaged, parse_json
from graftwork.datasets._decode import decode
from graftwork.datasets._sources import Raw, ReadOptions
from graftwork.datasets._thin import thin
from graftwork.errors import DataError, did_you_mean

_SPLIT_WORDS = {"train": {"train", "training"}, "test": {"test", "testing"}, "val": {"val", "valid", "validation"}}
_MAX_METADATA = 2**24
_ROOM, _BYTES_A_ROW, _GROWTH = 2**28, 16, 16
"""What a file may claim: so many bytes, and 2¹⁷ rows, or more where it is large itself."""
_LABEL_NAMES = ("label", "labels", "class", "target", "fine_label", "y")


def read_parquet(files: list[Path], options: ReadOptions) -> Raw:
    """Read parquet files in the Hugging Face schema: an image column of ``{bytes, path}`` or bytes, and a label column.

    Files with the word ``test`` (else ``val``, ``validation``) in their name, or in a folder of that name, are the test
    split, if others remain to train on: ``test-00000-of-00001.parquet`` and ``test/0000.parquet``, but not
    ``latest.parquet``.
    """
    tables = {file: _open(file) for file in files}
    test = [file for file in files if _split_word(file) == "test"] or [f for f in files if _split_word(f) == "val"]
    if len(test) == len(files):
        test = []
    train = [file for file in files if file not in test]
    return _read([(str(file), tables[file]) for file in train], [(str(file), tables[file]) for file in test], options)


def _split_word(path: Path) -> str:
    for words in (set(re.split(r"[^a-z]+", path.stem.lower())), {path.parent.name.lower()}):
        for split, known in _SPLIT_WORDS.items():
            if words & known:
                return split
    return "train"


def _open(path: Path) -> pa.Table:
    with _opened(path) as file:
        return pa.Table.from_batches(_batches(file, path), schema=file.schema_arrow)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A parquet file; whatever goes wrong with it is a `DataError`."""
    if not path.is_file():
        raise DataError(f"{path}: expected a parquet file, got a folder, pipe or device; take it away")
    try:
        with damaged(str(path), error=DataError), pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: expected a parquet file, got one that can't be read ({error}); it is damaged or of another kind"
        ) from error


def _batches(file: pq.ParquetFile, path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a file, within bounds: a few bytes can stand for any number of rows, or of equal large cells."""
    size = path.stat().st_size
    rows, room = max(2**17, size // _BYTES_A_ROW), max(_ROOM, _GROWTH * size)
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    if file.metadata.num_rows > rows:
        raise DataError(f"{path}: expected at most {rows:,} images in {size:,} bytes, got {file.metadata.num_rows:,}")
    largest = max((group.total_byte_size for group in groups), default=1)  # no cell is larger
    for batch in file.iter_batches(batch_size=min(1024, max(1, room // max(largest, 1)))):
        room -= batch.nbytes
        if room < 0:
            raise DataError(f"{path}: expected cells that fit its {size:,} bytes, got far more; it is not read")
        yield batch


def sample_parquet(files: list[Path], options: ReadOptions) -> tuple[list[Path | bytes], int]:
    """Images of the first rows of each file, and the number of rows of all files.

    Raises:
        DataError: As `read_parquet`.
    """
    found: list[Path | bytes] = []
    rows = 0
    for path in files:
        with _opened(path) as file:
            rows += file.metadata.num_rows
            batch = next(_batches(file, path), None)
        if batch is not None:
            found += _pictures(pa.Table.from_batches([batch]), str(path), options)
    return found, rows


def sample_hub(name: str, splits: dict[str, Any], options: ReadOptions) -> tuple[list[Path | bytes], int]:
    """Images of the first rows of each split that `open_hub` found, and the number of rows of all."""
    found: list[Path | bytes] = []
    for split, part in splits.items():
        found += _pictures(part.with_format("arrow")[:1000], f"{name}/{split}", options)
    return found, sum(len(part) for part in splits.values())


def _pictures(table: pa.Table, where: str, options: ReadOptions) -> list[Path | bytes]:
    column = _image_column(table, where, options.image_column)
    return [picture for _, picture in _image_cells(table, column, where)]


def open_hub(name: str) -> tuple[str, dict[str, Any]]:
    """Find a data set of the Hugging Face hub by name, with their library (extra ``graftwork[datasets]``).

    Returns:
        A text that identifies its content, and its splits by name.

    Raises:
        DataError: If the library is not installed, or does not know the name.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"data: expected a file or folder, got {name!r}, which is not there; check the path, or install "
            "graftwork[datasets] to load it by name from the Hugging Face hub"
        ) from error
    try:
        found = datasets.load_dataset(name)
    except Exception as error:  # the library raises many kinds: no network, no such data set, no splits
        raise DataError(
            f"data: expected a path or the name of a Hugging Face data set, got {name!r}, which can't be loaded: "
            f"{error}"
        ) from error
    return " ".join(f"{split}:{part._fingerprint}" for split, part in found.items()), dict(found)  # noqa: SLF001


def read_hub(name: str, splits: dict[str, Any], options: ReadOptions) -> Raw:
    """Decode what `open_hub` found."""
    tables = {split: _hub_table(part) for split, part in splits.items()}
    test = next((split for split in ("test", "validation", "valid") if split in tables and len(tables) > 1), None)
    train = [(f"{name}/{split}", table) for split, table in tables.items() if split == "train"]
    train = train or [(f"{name}/{split}", table) for split, table in tables.items() if split != test]
    return _read(train, [] if test is None else [(f"{name}/{test}", tables[test])], options)


def _hub_table(part: Any) -> pa.Table:
    """The split as a table whose metadata hold the features, which name the classes."""
    table = part.with_format("arrow")[:]
    return table.replace_schema_metadata(part.features.arrow_schema.metadata)


def _read(train: list[tuple[str, pa.Table]], test: list[tuple[str, pa.Table]], options: ReadOptions) -> Raw:
    first = train[0]
    image_column = _image_column(first[1], first[0], options.image_column)
    label_column = _label_column(first[1], first[0], options.label_column)
    sources: list[tuple[str, Path | bytes]] = []
    labels: list[list[Any]] = []
    border = 0
    for number, (name, table) in enumerate([*train, *test]):
        if number == len(train):
            border = len(sources)
        sources += _image_cells(table, image_column, name)
        labels.append(_label_cells(table, label_column, name))
    border = border if test else len(sources)
    names, numbers = _classes([*train, *test], label_column, labels)
    rows = thin([(number, row < border) for row, number in enumerate(numbers.tolist())], options.max_images)
    images, kept, skipped = decode(
        [sources[row] for row in rows],
        image_size=options.image_size,
        skip_bad_images=options.skip_bad_images,
        where=first[0],
        progress=options.progress,
    )
    kept = [rows[index] for index in kept]
    every = numbers[kept]
    cut = int(np.searchsorted(kept, border))
    raw = Raw(images[:cut], every[:cut], names, skipped=skipped)
    if test:
        raw.test_images, raw.test_labels = images[cut:], every[cut:]
    return raw


def _require(table: pa.Table, column: str, where: str) -> str:
    if column not in table.column_names:
        known = table.column_names
        raise DataError(
            f"{where}: expected a column of {', '.join(known)}, got {column!r}{did_you_mean(column, known)}"
        )
    return column


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _image_column(table: pa.Table, where: str, asked: str | None) -> str:
    if asked is not None:
        _require(table, asked, where)
        if not _holds_images(table.schema.field(asked).type):
            kind = table.schema.field(asked).type
            raise DataError(f"{where}: expected encoded images in column {asked!r}, got {kind}")
        return asked
    found = [entry.name for entry in table.schema if _holds_images(entry.type)]
    if len(found) != 1:
        got = f"{', '.join(found)}" if found else f"none among {', '.join(table.column_names)}"
        raise DataError(f"{where}: expected one column of encoded images, got {got}; name it with --image-column")
    return str(found[0])


def _label_column(table: pa.Table, where: str, asked: str | None) -> str:
    if asked is not None:
        return _require(table, asked, where)
    found = [name for name in _LABEL_NAMES if name in table.column_names]
    if not found:
        known = ", ".join(table.column_names)
        raise DataError(f"{where}: expected a label column, got none among {known}; name it with --label-column")
    return found[0]


def _image_cells(table: pa.Table, column: str, where: str) -> list[tuple[str, Path | bytes]]:
    _require(table, column, where)
    cells: list[tuple[str, Path | bytes]] = []
    for row, cell in enumerate(table.column(column).to_pylist()):
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        path = cell.get("path") if isinstance(cell, dict) else None
        if data is None and isinstance(path, str) and path:
            cells.append((f"{where}: row {row}", _below(Path(where).parent, path, f"{where}: row {row}")))
        else:
            cells.append((f"{where}: row {row}", data if isinstance(data, bytes) else b""))
    return cells


def _below(folder: Path, path: str, where: str) -> Path:
    """A file that a cell names; only what lies below the table's folder, also by way of links, is read."""
    try:
        found = (folder / path).resolve()
        inside = found.is_relative_to(folder.resolve()) and (found.is_file() or not found.exists())
    except (OSError, ValueError, RuntimeError):  # too long, with a zero byte, or a link to itself
        inside = False
    if not inside:
        raise DataError(f"{where}: expected the path of a file below {folder}, got {ascii(path)[:80]}; it is not read")
    return found


def _label_cells(table: pa.Table, column: str, where: str) -> list[Any]:
    """The labels of a table: integers, or texts (booleans and categories as their texts)."""
    _require(table, column, where)
    cells = table.column(column)
    if pa.types.is_dictionary(cells.type):
        cells = cells.cast(cells.type.value_type)
    if pa.types.is_boolean(cells.type) or pa.types.is_string_view(cells.type):
        cells = cells.cast(pa.string())
    if not (pa.types.is_integer(cells.type) or pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        raise DataError(
            f"{where}: expected integers or texts as labels in column {column!r}, got {cells.type}; convert them"
        )
    values: list[Any] = cells.to_pylist()
    if None in values:
        raise DataError(
            f"{where}: expected a label in every row, got none (NaN or null) in row {values.index(None)}; "
            "fill it in or remove the row"
        )
    return values


def _stored_names(table: pa.Table, column: str) -> tuple[str, ...] | None:
    """Names of the classes in the order of their numbers, from Hugging Face's metadata; ``None``: there are none."""
    try:
        stored = (table.schema.metadata or {})[b"huggingface"]
        features = parse_json(stored[:_MAX_METADATA], "metadata", error=DataError)["info"]["features"]
        return tuple(str(name) for name in features[column]["names"])
    except (KeyError, ValueError, TypeError):
        return None


def _classes(tables: list[tuple[str, pa.Table]], column: str, labels: list[list[Any]]) -> tuple[tuple[str, ...], Any]:
    """Names of the classes, and the number of every row's class among them, matched by name between files.

    Names are the texts themselves, else those that Hugging Face's metadata give to numbers, else the numbers. A file
    may number the same names in another order: its numbers are then translated.

    Args:
        tables: Name and content of each file.
        column: Name of the label column.
        labels: What `_label_cells` gives, a list a file.

    Raises:
        DataError: If labels are texts in one file and numbers in another, or two files name other classes.
    """
    first, table = tables[0]
    texts = [bool(values) and isinstance(values[0], str) for values in labels]
    for (name, _), is_text, values in zip(tables, texts, labels, strict=True):
        if values and is_text != texts[0]:
            kinds = {True: "texts", False: "numbers"}
            raise DataError(
                f"{name}: expected labels like those of {first}, {kinds[texts[0]]}, got {kinds[is_text]}; "
                "write both files alike"
            )
    if texts[0]:
        names = sorted({value for values in labels for value in values})
        index = {name: number for number, name in enumerate(names)}
        return tuple(names), np.asarray([index[value] for values in labels for value in values], dtype=np.int64)
    known = _stored_names(table, column)
    numbers = [
        _translated(name, other, column, known=known, first=first, values=values)
        for (name, other), values in zip(tables, labels, strict=True)
    ]
    every = np.concatenate(numbers)
    return (known, every) if known is not None else _numbered(every)


def _translated(
    name: str, table: pa.Table, column: str, *, known: tuple[str, ...] | None, first: str, values: list[Any]
) -> Any:
    """A file's numbers, int64 [rows], as the first file numbers the classes."""
    own, numbers = _stored_names(table, column), np.asarray(values, dtype=np.int64)
    if own == known:
        return numbers
    if own is None or known is None or set(own) != set(known) or len(set(own)) != len(own):
        given = {where: ", ".join(found) if found else "none" for where, found in ((first, known), (name, own))}
        raise DataError(
            f"{name}: expected the class names of {first} ({given[first]}), got {given[name]}; write both files alike"
        )
    outside = (numbers < 0) | (numbers >= len(own))
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise DataError(f"{name}: expected labels from 0 to {len(own) - 1}, got {numbers[row]} in row {row}; mend it")
    return np.asarray([known.index(entry) for entry in own], dtype=np.int64)[numbers]


def _numbered(numbers: Any) -> tuple[tuple[str, ...], Any]:
    """Name classes by the numbers that occur, in order (1 … 10 as well as 0 … 9)."""
    occurring = np.unique(numbers)
    if len(occurring) and occurring[0] < 0:  # usually "not labeled": let the check name the row
        return tuple(str(number) for number in range(int(occurring[-1]) + 1)), numbers
    return tuple(map(str, occurring.tolist())), np.searchsorted(occurring, numbers)
