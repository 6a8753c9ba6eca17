"""``graftwork export``."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graftwork.cli import _options as options
from graftwork.cli._app import app, tell
from graftwork.errors import InputError

if TYPE_CHECKING:
    from graftwork.exporting import ExportReport, Front


INT8 = "onnx-int8"
HUB = "hub"
_CALIBRATION = 128
"""Images that the ranges of activations are measured on."""


@app.command()
def export(
    run: options.Run,
    to: Annotated[
        str,
        typer.Option(
            help="source (plain PyTorch and safetensors), hub (the same with config and model card, for the Hugging "
            "Face hub), pt2, onnx, or onnx-int8 (both sizes, with what 8 bits cost in accuracy on the validation "
            "split; needs the run's data)."
        ),
    ] = "source",
    out: Annotated[Path | None, typer.Option(help="Folder. \\[default: RUN/export/MEMBER-FORM]")] = None,
    member: options.Member = None,
    ensemble: Annotated[
        str | None, typer.Option(help="Ensemble of the run instead of a member: mean, stacked, …")
    ] = None,
    trunk: options.TrunkOf = None,
    license_: Annotated[
        str | None,
        typer.Option("--license", help="Of the model, for the card of --to hub: apache-2.0, … \\[default: unknown]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export that is there.")] = False,
) -> None:
    """Export a member or an ensemble as a model that runs without graftwork; checked to give the same outputs."""
    from graftwork.exporting import export_hub, quantize_export
    from graftwork.runs import RunFolder
    from graftwork.session import front_of, problem_of

    folder = RunFolder.open(run)
    if ensemble is not None and member is not None:
        raise InputError(f"export: give either --member or --ensemble, got {member!r} and {ensemble!r}")
    name = ensemble or member or folder.result()["best"]["id"]
    if license_ is not None and to != HUB:
        raise InputError(f"export: --license stands in the card of --to hub, got it with --to {to}; leave it out")
    target = out or run / "export" / f"{name}-{to}"
    problem = problem_of(folder, trunk=trunk) if to == INT8 else None
    front = front_of(folder, trunk)
    write = partial(_export_member if ensemble is None else _export_ensemble, folder, name, front=front)
    if to == HUB:
        given: dict[str, Any] = {"ensemble": ensemble is not None, "licence": license_ or "unknown"}
        source = partial(write, "source", overwrite=False)
        found = export_hub(folder, name, target, source=source, overwrite=overwrite, **given)
    else:
        found = write("onnx" if to == INT8 else to, target, overwrite=overwrite)
    _tell_export(found, "member" if ensemble is None else "ensemble")
    if problem is not None:
        held_out = problem.splits.validation
        report = quantize_export(
            found.paths[0],
            calibration=problem.shown(problem.calibration_rows(_CALIBRATION)),
            images=problem.shown(held_out),
            labels=problem.labels(held_out),
            overwrite=overwrite,
        )
        tell(f"on the validation split: {report}")


def _export_member(
    run: Any, name: str, to: str, target: Path, *, overwrite: bool, front: "Front | None"
) -> "ExportReport":
    from graftwork.exporting import export_member
    from graftwork.runs import load_member

    network, transform, stored = load_member(run, name)
    return export_member(
        network,
        target,
        to=to,  # type: ignore[arg-type]
        transform=transform,
        class_names=stored["class_names"],
        overwrite=overwrite,
        front=front,
    )


def _export_ensemble(
    run: Any, name: str, to: str, target: Path, *, overwrite: bool, front: "Front | None"
) -> "ExportReport":
    from graftwork.exporting import Joined, export_ensemble
    from graftwork.session import load_ensemble

    ensemble, transform, data = load_ensemble(run, name)
    stored = run.read_json(f"ensembles/{name}.json")
    return export_ensemble(
        Joined(list(ensemble.members), ensemble.combiner, stored["combiner"], stored["features"]),  # type: ignore[arg-type]
        target,
        to=to,  # type: ignore[arg-type]
        transform=transform,
        class_names=data["class_names"],
        overwrite=overwrite,
        front=front,
    )


def _tell_export(found: "ExportReport", noun: str) -> None:
    gap = "not run: onnxruntime is missing" if found.max_gap is None else f"{found.max_gap:.2g}"
    tell(f"{', '.join(map(str, found.paths))}\nlargest relative gap to the {noun}: {gap}")
