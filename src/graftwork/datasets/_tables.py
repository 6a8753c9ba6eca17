"""Tables of images: parquet files and Hugging Face data sets."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from graftwork._files import damaged, parse_json
from graftwork.datasets._convert import Picture
from graftwork.datasets._listing import (
    Item,
    Listing,
    ReadOptions,
    SplitName,
    check_streamed,
    joined,
    split_named,
    split_of_file,
)
from graftwork.datasets._sheets import LABEL_NAMES, finder, group_of, split_column, split_of
from graftwork.datasets._tasks import OTHER_TASKS
from graftwork.errors import DataError, did_you_mean

_MAX_METADATA = 2**24
_ROOM, _BYTES_A_ROW, _GROWTH = 2**28, 16, 16
"""What a file may claim: so many bytes, and 2¹⁷ rows, or more where it is large itself."""


def list_parquet(files: list[Path], where: Path, options: ReadOptions) -> Listing:
    """List parquet files in the Hugging Face schema: an image column of ``{bytes, path}`` or bytes, and a label column.

    Files with the word ``test``, or ``val`` or ``validation``, in their name, or in a folder of that name, are those
    splits, if others remain to train on: ``test-00000-of-00001.parquet`` and ``test/0000.parquet``, but not
    ``latest.parquet``.
    """
    splits = {file: split_of_file(file) for file in files}
    if len(set(splits.values())) == 1:
        splits = dict.fromkeys(files, "train")
    ordered = sorted(files, key=lambda file: splits[file] != "train")
    columns = _Columns(options)
    parts = [
        columns.listing(_open(file), str(file), split=splits[file], folder=Path(options.image_root or file.parent))
        for file in ordered
    ]
    return joined(str(where), parts)


def _open(path: Path) -> pa.Table:
    if not path.is_file():
        raise DataError(f"{path}: expected a parquet file, got a folder, pipe or device; take it away")
    try:
        with damaged(str(path), error=DataError), pq.ParquetFile(path) as file:
            return pa.Table.from_batches(_batches(file, path), schema=file.schema_arrow)
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


def list_hub(name: str, splits: Mapping[str, Any], options: ReadOptions) -> Listing:
    """List Hugging Face data sets, one a split; where one is called ``train``, those of unknown names are left out."""
    known = {name: split_named(name) for name in splits}
    if "train" not in known.values():
        known = {name: split or "train" for name, split in known.items()}
    columns = _Columns(options)
    parts = [
        columns.listing(_hub_table(part, f"{name}/{key}"), f"{name}/{key}", split=split, folder=Path("/"))
        for key, part in sorted(splits.items(), key=lambda entry: known[entry[0]] != "train")
        if (split := known[key]) is not None
    ]
    found = joined(name, parts)
    found.skipped += [
        (f"{name}/{key}", f"{_count(part)}images of a split that is not train, validation or test")
        for key, part in splits.items()
        if known[key] is None
    ]
    return found


def _count(part: Any) -> str:
    return f"{len(part):,} " if hasattr(part, "__len__") else ""


def _hub_table(part: Any, where: str) -> pa.Table:
    """The split as a table whose metadata hold the features, which name the classes; a stream is read to its end."""
    plain = part.with_format("arrow")
    table = plain[:] if hasattr(part, "__len__") else _streamed(plain, where)
    return table if part.features is None else table.replace_schema_metadata(part.features.arrow_schema.metadata)


def _streamed(part: Any, where: str) -> pa.Table:
    tables, count = [], 0
    for table in part.iter(batch_size=100):
        count += table.num_rows
        check_streamed(count, where)
        tables.append(table)
    if not tables:
        raise DataError(f"{where}: expected images, got a stream that is empty; is it used up?")
    return pa.concat_tables(tables, promote_options="permissive")


class _Columns:
    """The columns of several tables, which the first of them decides.

    Args:
        options: How tables are read.
    """

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._image, self._label = options.image_column, options.label_column
        self._decided = False

    def listing(self, table: pa.Table, where: str, *, split: SplitName, folder: Path) -> Listing:
        """List the rows of a table.

        Args:
            table: Table with a column of images and one of labels.
            where: The table, as messages name it.
            split: The split that its rows are in, unless it has a column ``split``.
            folder: Folder that images which it only names must be below.
        """
        if not self._decided:
            self._image = _image_column(table, where, self._image)
            self._label = _label_column(table, where, self._label)
            self._decided = True
        image, label = str(self._image), str(self._label)
        pictures, labels = _image_cells(table, image, where, folder), _label_cells(table, label, where)
        rows = [f"{where}: row {row}" for row in range(len(labels))]
        groups: list[Any] = [None] * len(rows)
        if self._options.group_column is not None:
            cells = table.column(_require(table, self._options.group_column, where)).to_pylist()
            groups = [group_of(cell, row) for cell, row in zip(cells, rows, strict=True)]
        splits = [split] * len(rows)
        own = split_column(table.column_names, [image, label])
        if own is not None and _is_text(table.schema.field(own).type):
            splits = [split_of(cell, row) for cell, row in zip(table.column(own).to_pylist(), rows, strict=True)]
        items = [Item(*cells) for cells in zip(rows, pictures, labels, splits, groups, strict=True)]
        is_text = bool(labels) and isinstance(labels[0], str)
        return Listing(where, items, None if is_text else _stored_names(table, label))


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
    found = [name for name in LABEL_NAMES if name in table.column_names]
    if not found:
        known = ", ".join(table.column_names)
        raise DataError(
            f"{where}: expected a label column, got none among {known}; name it with --label-column ({OTHER_TASKS})"
        )
    return found[0]


def _image_cells(table: pa.Table, column: str, where: str, folder: Path) -> list[Picture]:
    _require(table, column, where)
    find = finder(folder)
    cells: list[Picture] = []
    for row, cell in enumerate(table.column(column).to_pylist()):
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        path = cell.get("path") if isinstance(cell, dict) else None
        if data is None and isinstance(path, str) and path:
            cells.append(find(path, f"{where}: row {row}"))
        else:
            cells.append(data if isinstance(data, bytes) else b"")
    return cells


def _label_cells(table: pa.Table, column: str, where: str) -> list[Any]:
    """The labels of a table: integers, or texts (booleans and categories as their texts)."""
    _require(table, column, where)
    cells = table.column(column)
    if pa.types.is_dictionary(cells.type):
        cells = cells.cast(cells.type.value_type)
    if pa.types.is_boolean(cells.type) or pa.types.is_string_view(cells.type):
        cells = cells.cast(pa.string())
    if not (pa.types.is_integer(cells.type) or _is_text(cells.type)):
        raise DataError(
            f"{where}: expected integers or texts as labels in column {column!r}, got {cells.type}; convert them if "
            f"they are classes ({OTHER_TASKS})"
        )
    values: list[Any] = cells.to_pylist()
    if None in values:
        raise DataError(
            f"{where}: expected a label in every row, got none (NaN or null) in row {values.index(None)}; "
            "fill it in or remove the row"
        )
    return values


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _stored_names(table: pa.Table, column: str) -> tuple[str, ...] | None:
    """Names of the classes in the order of their numbers, from Hugging Face's metadata; ``None``: there are none."""
    try:
        stored = (table.schema.metadata or {})[b"huggingface"]
        features = parse_json(stored[:_MAX_METADATA], "metadata", error=DataError)["info"]["features"]
        return tuple(str(name) for name in features[column]["names"])
    except (KeyError, ValueError, TypeError):
        return None
