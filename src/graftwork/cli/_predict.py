"""``graftwork predict``."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graftwork.cli import _options as options
from graftwork.cli._app import app, emit, plain, say, tell
from graftwork.errors import DataError, InputError

if TYPE_CHECKING:
    from torch import Tensor

    from graftwork.session import Classifier

_SHOWN = 20
"""Files left out that are named one by one."""


@app.command()
def predict(
    model: options.Model,
    images: Annotated[list[Path], typer.Argument(help="Image files or folders of them.")],
    member: options.Member = None,
    ensemble: options.EnsembleOf = None,
    top_k: Annotated[int, typer.Option(help="Classes to tell of each image, the likeliest first.")] = 1,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also tell the probability of every class.")
    ] = False,
    skip_bad_images: Annotated[
        bool, typer.Option("--skip-bad-images", help="Leave out images that can't be read, and name them.")
    ] = False,
    trunk: options.TrunkOf = None,
    mirrored: options.Mirrored = False,
    device: options.Place = "cpu",
    batch_size: options.Pass = None,
    out: Annotated[Path | None, typer.Option(help="CSV or JSON file. \\[default: the output stream]")] = None,
    as_json: options.Json = False,
) -> None:
    """Classify images with a member of a run or an exported model: file, class, probability."""
    from graftwork.runs import write_text
    from graftwork.session import open_classifier

    opened = open_classifier(model, member=member, ensemble=ensemble, device=device, trunk=trunk, mirrored=mirrored)
    most = len(opened.class_names)
    if not 1 <= top_k <= most:
        raise InputError(f"top_k: expected a number from 1 to {most}, the number of classes, got {top_k}; take one")
    passed_over: list[tuple[str, str]] = []
    files, skipped = _files(images, passed_over), list[str]()
    rows = _classify(opened, files, batch_size, skipped=skipped if skip_bad_images else None)
    told = (_row(opened, path, row, top_k, everything=probabilities) for path, row in rows)
    if as_json and out is None:
        for row in told:
            emit(row)
    else:
        text = as_text(list(told), as_json=as_json or (out is not None and out.suffix == ".json"))
        if out is None:
            tell(text, end="")
        else:
            write_text(out, text.encode("utf-8", "backslashreplace").decode())  # names of files may be no text
            say(f"{len(files) - len(skipped)} predictions: {out}")
    for name, reason in passed_over[:_SHOWN]:
        say(f"passed over: {name}: {reason}")
    _tell_skipped(skipped, len(files))


def _tell_skipped(skipped: Sequence[str], total: int) -> None:
    for reason in skipped[:_SHOWN]:
        say(f"left out: {reason}")
    if skipped:
        say(f"{len(skipped)} of {total} images were left out, as they can't be read")
    if len(skipped) == total:
        raise DataError(f"predict: expected images, got {total} of which none can be read; check the files")


def _files(paths: list[Path], passed_over: list[tuple[str, str]]) -> list[Path]:
    """The files, and those below the folders, that are images; what else is in the folders is noted."""
    from graftwork.datasets import IMAGE_SUFFIXES, image_files

    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += image_files(path, skipped=passed_over)
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"{path}: expected an image file or a folder, there is none")
    if not found:
        raise InputError(f"no images in {', '.join(map(str, paths))}; expected files ending in {IMAGE_SUFFIXES}")
    return found


def _classify(
    model: "Classifier", files: Sequence[Path], batch_size: int | None = None, *, skipped: list[str] | None = None
) -> "Iterator[tuple[Path, Tensor]]":
    """Each file with its probabilities [classes]; bad files are an error, or noted in ``skipped`` and left out."""
    import torch

    from graftwork.datasets import read_image

    channels, height, width = model.input_shape
    size = batch_size or model.batch_size
    for start in range(0, len(files), size):
        kept, pixels = list[Path](), list["Tensor"]()
        for path in files[start : start + size]:
            try:
                image = read_image(path, size=(height, width), channels=channels)
            except DataError as error:
                if skipped is None:
                    raise
                skipped.append(str(error))
            else:
                kept.append(path)
                pixels.append(torch.from_numpy(image.copy()))
        if kept:
            yield from zip(kept, model.probabilities(torch.stack(pixels)), strict=True)


def _row(model: "Classifier", path: Path, row: "Tensor", top_k: int, *, everything: bool) -> dict[str, Any]:
    """What is told of an image: the likeliest classes, and where asked for the probability of each."""
    told: dict[str, Any] = {"file": str(path)}
    values, labels = row.sort(descending=True, stable=True)
    for place, (value, label) in enumerate(zip(values[:top_k].tolist(), labels[:top_k].tolist(), strict=True), 1):
        ending = "" if place == 1 else f"_{place}"
        told |= {f"class{ending}": model.class_names[label], f"probability{ending}": round(value, 6)}
    if everything:
        pairs = zip(model.class_names, row.tolist(), strict=True)
        told["probabilities"] = {name: round(value, 6) for name, value in pairs}
    return told


def as_text(rows: Sequence[dict[str, Any]], *, as_json: bool) -> str:
    """Rows as a JSON list, or as a CSV table; the probability of each class has a column of its own there."""
    if as_json:
        return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    flat = [
        {
            **{key: value for key, value in row.items() if key != "probabilities"},
            **{f"probability of {name}": value for name, value in row.get("probabilities", {}).items()},
        }
        for row in rows
    ]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_cell(name) for name in flat[0]] if flat else ["file", "class", "probability"])
    writer.writerows([_cell(value) for value in row.values()] for row in flat)
    return buffer.getvalue()


def _cell(value: object) -> str:
    """Text of a cell without control characters, and a quote before what a spreadsheet would take for a formula."""
    text = plain(str(value))
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\n]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?", re.IGNORECASE)
