"""Sheets: rows of an image (mostly the path of one) and its label, from CSV and TSV files or frames."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from graftwork.datasets._arrays import pictures
from graftwork.datasets._convert import Picture
from graftwork.datasets._listing import Item, Listing, ReadOptions, SplitName, split_named, split_of_file
from graftwork.datasets._walk import IMAGE_SUFFIXES, Slice, shown
from graftwork.errors import DataError, did_you_mean

SHEETS = (".csv", ".tsv")
"""Endings of tables that are text."""
LABEL_NAMES = ("label", "labels", "class", "target", "fine_label", "y", "category")
"""Columns that hold the labels where none is named."""

_IMAGE_NAMES = ("path", "file", "filename", "file_name", "file_path", "filepath", "image", "image_path", "img")
_SPLIT_NAMES = ("split", "subset")
_MOST_BYTES = 2**28


@dataclass(frozen=True)
class Sheet:
    """Columns of equal length.

    Args:
        where: The sheet, as messages name it.
        columns: Cells of each column.
        first_row: What its own program calls the first row.
    """

    where: str
    columns: Mapping[str, Sequence[Any]]
    first_row: int = 0

    def listing(
        self, options: ReadOptions, find: Callable[[str, str], Picture], *, split: SplitName = "train"
    ) -> Listing:
        """List its rows.

        Args:
            options: How it is read.
            find: Finds the image that a cell names, for a row as messages name it.
            split: The split of its rows, where no column says one.

        Raises:
            DataError: If a column is missing, or a cell can't be used.
        """
        image = self._image_column(options.image_column)
        named = split_column(self.columns, [image, options.label_column])
        others = [name for name in self.columns if name not in (image, named, options.group_column)]
        label = self._label_column(options.label_column, others)
        group = None if options.group_column is None else self._require(options.group_column)
        cells = list(self.columns[image])
        if cells and all(isinstance(cell, np.ndarray) for cell in cells):
            cells = pictures(cells, self.where)
        items = []
        for number, (picture, text) in enumerate(zip(cells, self.columns[label], strict=True)):
            row = f"{self.where}: row {self.first_row + number}"
            name = f"{row}, {shown(picture)}" if isinstance(picture, str | Path) else row
            items.append(
                Item(
                    name,
                    _picture(picture, name, find),
                    _label(text, name),
                    split if named is None else split_of(self.columns[named][number], name),
                    None if group is None else group_of(self.columns[group][number], name),
                )
            )
        return Listing(self.where, items)

    def _require(self, column: str) -> str:
        if column in self.columns:
            return column
        known = ", ".join(self.columns)
        hint = did_you_mean(column, self.columns)
        raise DataError(f"{self.where}: expected a column of {known}, got {column!r}{hint}")

    def _image_column(self, asked: str | None) -> str:
        if asked is not None:
            return self._require(asked)
        found = [name for name, cells in self.columns.items() if len(cells) and _is_picture(cells[0])]
        usual = [name for name in self.columns if name.strip().lower() in _IMAGE_NAMES]
        both = [name for name in found if name in usual]
        for names in (found, both, [] if found else usual):
            if len(names) == 1:
                return names[0]
        known = ", ".join(self.columns)
        got = f"{', '.join(found or usual)}" if found or usual else f"none among {known}"
        raise DataError(f"{self.where}: expected one column of images, got {got}; name it with --image-column")

    def _label_column(self, asked: str | None, others: Sequence[str]) -> str:
        if asked is not None:
            return self._require(asked)
        usual = {name.strip().lower(): name for name in reversed(others)}
        for name in LABEL_NAMES:
            if name in usual:
                return usual[name]
        if len(others) == 1:
            return others[0]
        known = ", ".join(self.columns)
        raise DataError(f"{self.where}: expected a label column, got none among {known}; name it with --label-column")


def read_sheet(file: Path | Slice, path: Path, *, where: str) -> Sheet:
    """Read a CSV or TSV file: UTF-8 or UTF-16, with or without a header, separated by comma, semicolon or tab.

    Args:
        file: Where its bytes are.
        path: The file as messages name it; its ending says what separates cells.
        where: The sheet, as messages name it.

    Raises:
        DataError: If it is too large, is no table, or a row has too few or too many cells.
    """
    size = file.size if isinstance(file, Slice) else file.stat().st_size
    if size > _MOST_BYTES:
        raise DataError(f"{where}: expected at most {_MOST_BYTES:,} bytes of text, got {size:,}; is it a table?")
    data = file.read_bytes()
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "surrogateescape")
        line = text[:65536].partition("\n")[0]
        mark = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=line.count)
        rows = [row for row in csv.reader(text.splitlines(keepends=True), delimiter=mark) if any(map(str.strip, row))]
    except (csv.Error, ValueError) as error:
        raise DataError(f"{where}: expected a table as text, got one that can't be read ({error}); mend it") from error
    if not rows:
        raise DataError(f"{where}: expected rows of a path and a label, got an empty file")
    has_header = not any(map(_is_picture, rows[0]))
    names = [name.strip() for name in rows[0]] if has_header else [f"column {n + 1}" for n in range(len(rows[0]))]
    if len(set(names)) < len(names):
        raise DataError(f"{where}: expected a name for every column, got {', '.join(names)}; rename the equal ones")
    rows = rows[has_header:]
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise DataError(
                f"{where}: expected {len(names)} cells in row {number + 1 + has_header}, got {len(row)}; mend it"
            )
    cells = zip(*rows, strict=True) if rows else [()] * len(names)
    return Sheet(where, dict(zip(names, cells, strict=True)), 1 + has_header)


def list_sheets(files: Sequence[Path], options: ReadOptions) -> list[Listing]:
    """List CSV files on disk; where there are several, words in their names say their splits."""
    return [
        read_sheet(file, file, where=shown(file)).listing(
            options,
            finder(Path(options.image_root) if options.image_root is not None else file.parent),
            split=split_of_file(file) if len(files) > 1 else "train",
        )
        for file in files
    ]


def finder(folder: Path, *, begin: Path | None = None) -> Callable[[str, str], Path]:
    """A function that finds the file that a cell names; only what lies below a folder, also by way of links, is read.

    Args:
        folder: The folder.
        begin: Folder that relative paths begin from; ``None``: the same.
    """
    top, known = folder.resolve(), dict[Path, Path]()
    start = top if begin is None else begin.resolve()

    def real(path: Path) -> Path:
        if path.parent not in known:  # a table names many files of few folders
            known[path.parent] = path.parent.resolve()
        found = known[path.parent] / path.name
        return found.resolve() if path.name in ("", "..") or found.is_symlink() else found

    def find(path: str, where: str) -> Path:
        try:
            found = real(start / path)
            if not found.exists() and "\\" in path:  # written on Windows
                found = real(start / path.replace("\\", "/"))
            inside = found.is_relative_to(top) and "\0" not in path and (found.is_file() or not found.exists())
        except (OSError, ValueError, RuntimeError):  # too long, or a link to itself
            inside = False
        if not inside:
            raise DataError(
                f"{where}: expected the path of a file below {folder}, got {ascii(path)[:80]}; it is not read (if you "
                "trust the table, name the folder of the images with --image-root)"
            )
        return found

    return find


def split_column(columns: Mapping[str, Any] | Sequence[str], taken: Sequence[str | None]) -> str | None:
    """The column that says the split of each row; ``None``: none does."""
    return next((name for name in columns if name.strip().lower() in _SPLIT_NAMES and name not in taken), None)


def split_of(cell: object, where: str) -> SplitName:
    """The split that a cell says.

    Raises:
        DataError: If it says none.
    """
    split = split_named(cell)
    if split is None:
        raise DataError(f"{where}: expected train, validation or test as split, got {ascii(cell)[:80]}; mend it")
    return split


def group_of(cell: object, where: str) -> str:
    """The group that a cell says.

    Raises:
        DataError: If it is empty.
    """
    if _is_empty(cell):
        raise DataError(f"{where}: expected a group in every row, got none; fill it in or remove the row")
    return str(cell).strip()


def _is_empty(cell: object) -> bool:
    no_number = isinstance(cell, float | np.floating) and math.isnan(cell)
    return cell is None or no_number or (isinstance(cell, str) and not cell.strip())


def _is_picture(cell: object) -> bool:
    if isinstance(cell, str | Path):
        return str(cell).strip().lower().endswith(IMAGE_SUFFIXES)
    array = isinstance(cell, np.ndarray) and cell.ndim >= 2
    return array or isinstance(cell, bytes | Image.Image) or (isinstance(cell, dict) and "bytes" in cell)


def _picture(cell: object, where: str, find: Callable[[str, str], Picture]) -> Picture:
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes | Image.Image):
        return cell
    if isinstance(cell, np.ndarray):
        return pictures([cell], where)[0]
    if isinstance(cell, str | Path) and str(cell).strip():
        return find(str(cell).strip(), where)
    raise DataError(f"{where}: expected an image or the path of one, got {ascii(cell)[:80]}; fill it in")


def _label(cell: object, where: str) -> int | str:
    """A label as a number or a text; booleans are their texts, floats without a fraction are numbers."""
    if _is_empty(cell):
        raise DataError(f"{where}: expected a label in every row, got none; fill it in or remove the row")
    if isinstance(cell, bool | np.bool_):
        return str(bool(cell)).lower()
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, int | np.integer) or (isinstance(cell, float) and cell.is_integer()):
        return int(cell)
    raise DataError(f"{where}: expected a number or a text as label, got {ascii(cell)[:80]}; convert it")
