"""``graftwork export`` and ``graftwork predict``."""

import csv
import io
from pathlib import Path
from typing import Annotated, Any

import typer

from graftwork.cli import _options as options
from graftwork.cli._app import app, emit, say
from graftwork.errors import InputError

Member = Annotated[str | None, typer.Option(help="Id of a member of the run. [default: the best]")]


def _best(run: Any, member: str | None) -> str:
    return member or str(run.read_json("result.json")["best"]["id"])


@app.command()
def export(
    run: options.Run,
    to: Annotated[str, typer.Option(help="source (plain PyTorch and safetensors), pt2 or onnx.")] = "source",
    out: Annotated[Path | None, typer.Option(help="Folder. [default: RUN/export/MEMBER-FORM]")] = None,
    member: Member = None,
) -> None:
    """Export a member as a model that runs without graftwork; checked to give the member's outputs."""
    from graftwork.exporting import export_member
    from graftwork.runs import RunFolder, load_member

    folder = RunFolder.open(run)
    name = _best(folder, member)
    network, transform, stored = load_member(folder, name)
    target = out or run / "export" / f"{name}-{to}"
    report = export_member(network, target, to=to, transform=transform, class_names=stored["class_names"])  # type: ignore[arg-type]
    typer.echo(str(report))


@app.command()
def predict(
    run: options.Run,
    images: Annotated[list[Path], typer.Argument(help="Image files or folders of them.")],
    member: Member = None,
    out: Annotated[Path | None, typer.Option(help="CSV or JSON file. [default: the output stream]")] = None,
    as_json: options.Json = False,
) -> None:
    """Classify images with a member of a run: file, class, probability."""
    from graftwork.runs import RunFolder, load_member, write_text

    folder = RunFolder.open(run)
    stored_member = load_member(folder, _best(folder, member))
    rows = _classify(stored_member, _files(images))
    if as_json and out is None:
        for row in rows:
            emit(row)
        return
    text = _as_text(rows, as_json=as_json or (out is not None and out.suffix == ".json"))
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)
        say(f"{len(rows)} predictions: {out}")


def _files(paths: list[Path]) -> list[Path]:
    from graftwork.datasets import IMAGE_SUFFIXES

    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"{path}: expected an image file or a folder, there is none")
    if not found:
        raise InputError(f"no images in {', '.join(map(str, paths))}; expected files ending in {IMAGE_SUFFIXES}")
    return found


def _classify(stored: Any, files: list[Path], batch_size: int = 256) -> list[dict[str, Any]]:
    import numpy as np
    import torch

    from graftwork.datasets import read_image

    member, transform, data = stored
    channels, height, width = member.genome.input_shape
    rows: list[dict[str, Any]] = []
    for start in range(0, len(files), batch_size):
        part = files[start : start + batch_size]
        pixels = np.stack([read_image(path, size=(height, width), channels=channels) for path in part])
        with torch.inference_mode():
            probabilities = member(transform(torch.from_numpy(pixels))).softmax(1)
        for path, row in zip(part, probabilities, strict=True):
            label = int(row.argmax())
            rows.append(
                {"file": str(path), "class": data["class_names"][label], "probability": round(float(row[label]), 6)}
            )
    return rows


def _as_text(rows: list[dict[str, Any]], *, as_json: bool) -> str:
    import json

    if as_json:
        return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=["file", "class", "probability"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
