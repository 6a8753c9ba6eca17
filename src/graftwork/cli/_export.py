"""``graftwork export`` and ``graftwork predict``."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graftwork.cli import _options as options
from graftwork.cli._app import app, emit, plain, say, tell
from graftwork.errors import InputError
from graftwork.typing import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from graftwork.exporting import ExportReport

Member = Annotated[str | None, typer.Option(help="Id of a member of the run. \\[default: the best]")]


def _best(run: Any, member: str | None) -> str:
    return member or run.result()["best"]["id"]


@app.command()
def export(
    run: options.Run,
    to: Annotated[str, typer.Option(help="source (plain PyTorch and safetensors), pt2 or onnx.")] = "source",
    out: Annotated[Path | None, typer.Option(help="Folder. \\[default: RUN/export/MEMBER-FORM]")] = None,
    member: Member = None,
    ensemble: Annotated[
        str | None, typer.Option(help="Ensemble of the run instead of a member: mean, stacked, …")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export that is there.")] = False,
) -> None:
    """Export a member or an ensemble as a model that runs without graftwork; checked to give the same outputs."""
    from graftwork.exporting import export_member
    from graftwork.runs import RunFolder, load_member

    folder = RunFolder.open(run)
    if ensemble is not None:
        if member is not None:
            raise InputError(f"export: give either --member or --ensemble, got {member!r} and {ensemble!r}")
        _export_ensemble(folder, ensemble, to, out or run / "export" / f"{ensemble}-{to}", overwrite=overwrite)
        return
    name = _best(folder, member)
    network, transform, stored = load_member(folder, name)
    target = out or run / "export" / f"{name}-{to}"
    names = stored["class_names"]
    found = export_member(
        network,
        target,
        to=to,  # type: ignore[arg-type]
        transform=transform,
        class_names=names,
        overwrite=overwrite,
    )
    _tell_export(found, "member")


def _export_ensemble(run: Any, name: str, to: str, target: Path, *, overwrite: bool) -> None:
    from graftwork.exporting import Joined, export_ensemble
    from graftwork.session import load_ensemble

    ensemble, transform, data = load_ensemble(run, name)
    stored = run.read_json(f"ensembles/{name}.json")
    found = export_ensemble(
        Joined(list(ensemble.members), ensemble.combiner, stored["combiner"], stored["features"]),  # type: ignore[arg-type]
        target,
        to=to,  # type: ignore[arg-type]
        transform=transform,
        class_names=data["class_names"],
        overwrite=overwrite,
    )
    _tell_export(found, "ensemble")


def _tell_export(found: "ExportReport", noun: str) -> None:
    gap = "not run: onnxruntime is missing" if found.max_gap is None else f"{found.max_gap:.2g}"
    tell(f"{', '.join(map(str, found.paths))}\nlargest relative gap to the {noun}: {gap}")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Run folder, or an exported model (that you trust).")],
    images: Annotated[list[Path], typer.Argument(help="Image files or folders of them.")],
    member: Member = None,
    ensemble: Annotated[str | None, typer.Option(help="Ensemble of the run: mean, greedy, stacked, …")] = None,
    out: Annotated[Path | None, typer.Option(help="CSV or JSON file. \\[default: the output stream]")] = None,
    as_json: options.Json = False,
) -> None:
    """Classify images with a member of a run or an exported model: file, class, probability."""
    from graftwork.runs import write_text

    rows = _classify(_classifier(model, member, ensemble), _files(images))
    if as_json and out is None:
        for row in rows:
            emit(row)
        return
    text = _as_text(rows, as_json=as_json or (out is not None and out.suffix == ".json"))
    if out is None:
        tell(text, end="")
    else:
        write_text(out, text.encode("utf-8", "backslashreplace").decode())  # names of files may be no text
        say(f"{len(rows)} predictions: {out}")


def _files(paths: list[Path]) -> list[Path]:
    from graftwork.datasets import IMAGE_SUFFIXES, image_files

    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += image_files(path)
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"{path}: expected an image file or a folder, there is none")
    if not found:
        raise InputError(f"no images in {', '.join(map(str, paths))}; expected files ending in {IMAGE_SUFFIXES}")
    return found


@dataclass(frozen=True)
class _Classifier:
    """uint8 images [B, H, W, C] → logits, whatever computes them."""

    run: "Callable[[Tensor], Tensor]"
    input_shape: Shape
    class_names: Sequence[str]


def _classifier(path: Path, member: str | None, ensemble: str | None) -> _Classifier:
    if member is not None and ensemble is not None:
        raise InputError(f"predict: give either --member or --ensemble, got {member!r} and {ensemble!r}")
    if (path / "config.toml").is_file():
        from graftwork.runs import RunFolder, load_member

        folder = RunFolder.open(path)
        if ensemble is not None:
            from graftwork.session import load_ensemble

            joined, transform, data = load_ensemble(folder, ensemble)
            shape = data["genome"]["input_shape"]
            return _Classifier(lambda x: joined(transform(x)), tuple(shape), data["class_names"])
        network, transform, data = load_member(folder, _best(folder, member))
        return _Classifier(lambda x: network(transform(x)), network.genome.input_shape, data["class_names"])
    if member is not None or ensemble is not None:
        raise InputError(f"predict: --member and --ensemble name parts of a run, but {path} is no run folder")
    from graftwork.exporting import open_export

    opened = open_export(path)
    return _Classifier(lambda x: opened(x.permute(0, 3, 1, 2) / 255), opened.input_shape, opened.class_names)


def _classify(model: _Classifier, files: list[Path], batch_size: int = 256) -> list[dict[str, Any]]:
    import numpy as np
    import torch

    from graftwork.datasets import read_image

    channels, height, width = model.input_shape
    rows: list[dict[str, Any]] = []
    for start in range(0, len(files), batch_size):
        part = files[start : start + batch_size]
        pixels = np.stack([read_image(path, size=(height, width), channels=channels) for path in part])
        with torch.inference_mode():
            probabilities = model.run(torch.from_numpy(pixels)).softmax(1)
        for path, row in zip(part, probabilities, strict=True):
            label = int(row.argmax())
            rows.append(
                {"file": str(path), "class": model.class_names[label], "probability": round(float(row[label]), 6)}
            )
    return rows


def _as_text(rows: list[dict[str, Any]], *, as_json: bool) -> str:
    import json

    if as_json:
        return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=["file", "class", "probability"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return buffer.getvalue()


def _cell(value: object) -> str:
    """Text of a cell without control characters, and a quote before what a spreadsheet would take for a formula."""
    text = plain(str(value))
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\n]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?", re.IGNORECASE)
