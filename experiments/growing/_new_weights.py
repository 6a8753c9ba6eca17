"""Do new units learn faster whose incoming weights are aimed by the gradient, not drawn at random?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from experiments._common import Row, mean_and_spread, spread_text
from experiments.growing import _where as where
from experiments.growing._aim import aim
from experiments.growing._grid import Cell, GridExperiment, Setting, Table, rows_with
from graftwork.surgery import SurgeryReceipt, Widen, growth_sites

ROUNDS = 3
"""Iterations that aim new weights."""


def cells(setting: Setting) -> list[Cell]:
    """Every model with every seed; the cost is that of about six places."""
    return [Cell(cell.name, cell.flops / 2, cell.options) for cell in where.cells(setting)]


def run_cell(setting: Setting, cell: Cell) -> Row:
    """Widen a trained model at every place that has the form, with random and with aimed weights, and train it on."""
    subject, seed = where.SUBJECTS[cell.options["subject"]], int(cell.options["seed"])
    before, after = where.steps_of(setting)
    trial = where.Trial(where.trained(subject.learner(setting, seed), before), after, seed)
    places = []
    for site in growth_sites(trial.trunk.model, trial.trunk.example(4), method="netmorph").widenable:
        growth = Widen(site, factor=where.FACTOR, method="netmorph", check="fast")
        pairs = [_pair(trial, growth, draw) for draw in range(where.DRAWS)]
        if all(pairs):
            means = {key: sum(pair[key] for pair in pairs) / len(pairs) for key in ("random", "aimed")}
            places.append({"site": site, **means})
    return {"places": places, **trial.spent()}


def _pair(trial: where.Trial, growth: Widen, draw: int) -> dict[str, float]:
    """Gains at equal steps, from the same draw; empty where the growth can't be aimed."""
    fits = []

    def turn(model: nn.Module, receipt: SurgeryReceipt) -> None:
        fits.append(aim(model, receipt, trial.batches, where.loss_of, rounds=ROUNDS))

    aimed = trial.gain(growth, draw, turn)["equal_steps"]
    return {"random": trial.gain(growth, draw)["equal_steps"], "aimed": aimed} if fits[0] else {}


def summarise(rows: Mapping[str, Row]) -> dict[str, Any]:
    """By model: mean gain over places in every seed."""
    return {
        "subjects": {name: _subject(chosen) for name in where.SUBJECTS if (chosen := rows_with(rows, subject=name))}
    }


def _subject(rows: Sequence[Row]) -> dict[str, Any]:
    columns: dict[str, list[float]] = {}
    for row in rows:
        places = row["places"]
        means = {key: sum(place[key] for place in places) / len(places) for key in ("random", "aimed")}
        better = sum(place["aimed"] > place["random"] for place in places) / len(places)
        for key, value in (*means.items(), ("difference", means["aimed"] - means["random"]), ("better", better)):
            columns.setdefault(key, []).append(value)
    return {"places": len(rows[0]["places"]), **{key: mean_and_spread(values) for key, values in columns.items()}}


def tables(summary: Mapping[str, Any]) -> list[Table]:
    """Gains by the way that new weights are made."""
    lines = []
    for name, found in summary["subjects"].items():
        gains = [spread_text(found[key], "+.4f") for key in ("random", "aimed", "difference")]
        lines.append([name, str(found["places"]), *gains, f"{100 * found['better']['mean']:.0f} %"])
    columns = ["model", "places", "random", "aimed", "difference", "places where aimed is better"]
    return [Table("Gain of a wider site, in nats of training loss, by its new weights", columns, lines)]


def draw(rows: Mapping[str, Row], out: Path) -> None:
    """One point a place: both gains."""
    from graftwork.reports import Curve, curves_figure, write_figure

    series = []
    for name in where.SUBJECTS:
        points = sorted((p["random"], p["aimed"]) for row in rows_with(rows, subject=name) for p in row["places"])
        if points:
            series.append(Curve(name, [p[0] for p in points], [p[1] for p in points]))
    figure = curves_figure(series, xlabel="gain, random weights", ylabel="gain, aimed weights", title="New weights")
    write_figure(figure, out / "gains")


NEW_WEIGHTS = GridExperiment(
    "new-weights",
    "Do new units learn faster whose incoming weights are aimed by the gradient, not drawn at random?",
    cells,
    run_cell,
    where.SCORE_SITES.probe,
    summarise,
    tables,
    draw,
    partial=True,
)
"""The experiment over a grid."""
