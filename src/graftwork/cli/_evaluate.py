"""``graftwork evaluate``."""

from typing import TYPE_CHECKING, Annotated

import typer

from graftwork.cli import _options as options
from graftwork.cli._app import app, emit, plain, share, tell

if TYPE_CHECKING:
    from graftwork.session import Scores

_SURE = 0.01
"""Images count as different where chance alone would give so large a distance less often."""


@app.command()
def evaluate(
    model: options.Model,
    data: Annotated[str, typer.Option(help="Labelled images that are new to the model, as search takes them.")],
    member: options.Member = None,
    ensemble: options.EnsembleOf = None,
    image_column: options.ImageColumn = None,
    label_column: options.LabelColumn = None,
    skip_bad_images: Annotated[
        bool, typer.Option("--skip-bad-images", help="Leave out images that can't be read, and count them.")
    ] = False,
    trunk: options.TrunkOf = None,
    mirrored: options.Mirrored = False,
    device: options.Place = "cpu",
    batch_size: options.Pass = None,
    as_json: options.Json = False,
) -> None:
    """Score a member, an ensemble or an exported model on labelled images: accuracy, classes, calibration, shift."""
    from graftwork.session import evaluate as score
    from graftwork.session import open_classifier

    found = score(
        open_classifier(model, member=member, ensemble=ensemble, device=device, trunk=trunk, mirrored=mirrored),
        data,
        batch_size=batch_size,
        image_column=image_column,
        label_column=label_column,
        skip_bad_images=skip_bad_images,
    )
    if as_json:
        emit(found)
    else:
        tell("\n".join([*_overall(found), *_classes(found), *_calibration(found), *_shift(found)]))


def _overall(found: "Scores") -> list[str]:
    left_out = f", {found['skipped']} left out" if found["skipped"] else ""
    majority = found["majority"]
    return [
        f"{found['data']}: {found['images']} images{left_out}",
        f"accuracy           {share(found['accuracy'], found['interval'])} (95 % interval)",
        f"balanced accuracy  {found['balanced_accuracy']:.4f}",
        f"macro F1           {found['macro_f1']:.4f}",
        f"always {plain(str(majority['name']))!r} would be right for {majority['accuracy']:.4f}",
    ]


def _classes(found: "Scores") -> list[str]:
    width = max(5, *(len(plain(row["name"])) for row in found["per_class"]))
    return [
        "",
        f"{'class':<{width}}  precision  recall  images",
        *(
            f"{plain(row['name']):<{width}}  {row['precision']:>9.4f}  {row['recall']:>6.4f}  {row['support']:>6}"
            for row in found["per_class"]
        ),
    ]


def _calibration(found: "Scores") -> list[str]:
    lines = [
        "",
        f"calibration: ECE {found['ece']:.4f}, NLL {found['nll']:.4f}; mean confidence {found['confidence']:.4f}",
        "confidence   images  mean    accuracy",
    ]
    for row in found["calibration"]:
        if row["images"]:
            means = f"{row['confidence']:.4f}  {row['accuracy']:.4f}"
            lines.append(f"{row['low']:.1f} to {row['high']:.1f}   {row['images']:>6}  {means}")
    return lines


def _shift(found: "Scores") -> list[str]:
    shift = found["shift"]
    if shift is None:
        return []
    moved = ", ".join(f"{value:+.2f}" for value in shift["brightness"])
    ratios = ", ".join(f"{value:.2f}" for value in shift["contrast"])
    verdict = "they differ" if shift["p_value"] < _SURE else "no difference that chance would not give"
    test = f"Kolmogorov–Smirnov {shift['distance']:.3f}, p = {shift['p_value']:.2g}"
    channels = f"channels: mean moved by {moved} of the training images' deviation, deviation {ratios} times theirs"
    return [
        "",
        "new images   test split of the run",
        f"{found['accuracy']:<10.4f}   {shift['accuracy_on_test']:.4f}  accuracy",
        f"{found['confidence']:<10.4f}   {shift['confidence_on_test']:.4f}  mean confidence",
        f"predicted probabilities: {verdict} ({test})",
        *([channels] if moved else []),
        f"class shares: differ from those in training by {shift['class_distance']:.3f} (0 equal, 1 disjoint)",
    ]
