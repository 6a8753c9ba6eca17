"""Numbers, tables and figures of the poster's growth experiment, from stored cells alone."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._common import Row, mean_and_spread, spread_text
from experiments.growing._grid import Table

if TYPE_CHECKING:
    from graftwork.reports import Curve


Key = tuple[str, ...]


def _kind(rows: Mapping[str, Row], kind: str) -> list[Row]:
    return [row for row in rows.values() if row["options"]["kind"] == kind]


def _name(run: Row) -> str:
    return str(run["method"]) + ("" if run["carry"] else ", optimizer reset")


def _scratch(rows: Mapping[str, Row]) -> dict[Key, dict[str, dict[int, dict[float, Row]]]]:
    """(Change, schedule) → size → seed → budget → last point."""
    found: dict[Key, dict[str, dict[int, dict[float, Row]]]] = {}
    for row in _kind(rows, "scratch"):
        o = row["options"]
        by_budget = {run["budget"]: run["points"][-1] for run in row["runs"]}
        found.setdefault((o["change"], o["schedule"]), {}).setdefault(o["size"], {})[o["seed"]] = by_budget
    return found


def _envelope(sizes: Mapping[str, Mapping[int, Mapping[float, Row]]], seed: int, budget: float) -> tuple[float, str]:
    """The best accuracy of any size for at most so many FLOPs."""
    within = [
        (point["accuracy"], size)
        for size, seeds in sizes.items()
        for limit, point in seeds.get(seed, {}).items()
        if limit <= budget * (1 + 1e-9)
    ]
    return max(within)


def summarise(rows: Mapping[str, Row]) -> dict[str, Any]:
    """Final accuracies of every growth, beside the envelope at its FLOPs; the convergence experiment."""
    scratch = _scratch(rows)
    grown: dict[Key, dict[str, list[float]]] = {}
    for row in _kind(rows, "grown"):
        o = row["options"]
        for run in row["runs"]:
            end = run["points"][-1]
            best, _ = _envelope(scratch[o["change"], o["schedule"]], o["seed"], end["flops"])
            key = (o["change"], o["schedule"], f"{round(100 * o['moment'])} %", _name(run))
            values = grown.setdefault(
                key, {"accuracy": [], "minus_envelope": [], "flops": [], "seconds": [], "gap": []}
            )
            for field, value in (
                ("accuracy", end["accuracy"]),
                ("minus_envelope", end["accuracy"] - best),
                ("flops", end["flops"]),
                ("seconds", end["seconds"]),
                ("gap", run["gap"]),
            ):
                values[field].append(value)
    return {
        "growth": [
            {"change": c, "schedule": s, "moment": m, "method": n, **{f: mean_and_spread(v) for f, v in values.items()}}
            for (c, s, m, n), values in grown.items()
        ],
        "scratch": _scratch_rows(scratch),
        "convergence": _convergence(_kind(rows, "convergence")),
        "data": next(iter(rows.values()))["data"],
    }


def _scratch_rows(scratch: Mapping[Key, Mapping[str, Mapping[int, Mapping[float, Row]]]]) -> list[Row]:
    found = []
    for (change, schedule), sizes in scratch.items():
        for size, seeds in sizes.items():
            for budget in sorted(next(iter(seeds.values()))):
                ends = [by_budget[budget] for by_budget in seeds.values()]
                found.append(
                    {
                        "change": change,
                        "schedule": schedule,
                        "size": size,
                        "budget": budget,
                        "accuracy": mean_and_spread([end["accuracy"] for end in ends]),
                        "seconds": mean_and_spread([end["seconds"] for end in ends]),
                    }
                )
    return found


def _convergence(rows: Sequence[Row]) -> dict[str, Any]:
    """The teacher's accuracy, and when each student first stood at it."""
    found: dict[str, Any] = {"teacher_accuracy": mean_and_spread([row["teacher"][-1]["accuracy"] for row in rows])}
    for method in [run["method"] for run in rows[0]["runs"]]:
        ends, reached = [], []
        for row in rows:
            run = next(run for run in row["runs"] if run["method"] == method)
            goal = row["teacher"][-1]["accuracy"]
            ends.append(run["points"][-1]["accuracy"])
            reached.append(next((p["step"] for p in run["points"] if p["accuracy"] >= goal), None))
        found[method] = {"final_accuracy": mean_and_spread(ends), "updates_to_teacher_accuracy": reached}
    return found


def _pm(entry: Mapping[str, float], *, signed: bool = False) -> str:
    return spread_text(entry, "+.2f" if signed else ".2f", factor=100)


def tables(summary: Mapping[str, Any]) -> list[Table]:
    """Growth by change and schedule, networks from scratch, convergence."""
    columns = ["schedule", "grown at", "method", "validation accuracy, %", "minus envelope", "TFLOP", "seconds"]
    found = []
    for change in dict.fromkeys(entry["change"] for entry in summary["growth"]):
        lines = [
            [
                e["schedule"],
                e["moment"],
                e["method"],
                _pm(e["accuracy"]),
                _pm(e["minus_envelope"], signed=True),
                f"{e['flops']['mean'] / 1e12:.3f}",
                f"{e['seconds']['mean']:.0f}",
            ]
            for e in summary["growth"]
            if e["change"] == change
        ]
        found.append(Table(f"{change}: growth in training", columns, lines))
    lines = [
        [
            e["change"],
            e["schedule"],
            e["size"],
            f"{e['budget'] / 1e12:.3f}",
            _pm(e["accuracy"]),
            f"{e['seconds']['mean']:.0f}",
        ]
        for e in summary["scratch"]
    ]
    columns = ["beside", "schedule", "size", "TFLOP", "validation accuracy, %", "seconds"]
    found.append(Table("From scratch, schedules fitted to the budget", columns, lines))
    convergence = summary["convergence"]
    lines = [
        [name, _pm(e["final_accuracy"]), ", ".join(map(str, e["updates_to_teacher_accuracy"]))]
        for name, e in convergence.items()
        if name != "teacher_accuracy"
    ]
    title = f"Students of a converged teacher ({_pm(convergence['teacher_accuracy'])} %)"
    columns = ["student", "validation accuracy, %", "updates to the teacher's accuracy, by seed"]
    return [*found, Table(title, columns, lines)]


def draw(rows: Mapping[str, Row], out: Path) -> None:
    """Accuracy against updates, FLOPs and seconds at the poster's constant rate; growth and controls; convergence."""
    from graftwork.reports import curves_figure, write_figure

    labels = {"step": "updates", "flops": "training FLOPs", "seconds": "seconds of training"}
    for change in dict.fromkeys(row["options"]["change"] for row in _kind(rows, "grown")):
        for axis, label in labels.items():
            series = [*_moments(rows, change, axis), *_controls(rows, change, axis)]
            title = f"{change}, r2r at a constant rate"
            figure = curves_figure(series, xlabel=label, ylabel="validation accuracy", title=title)
            write_figure(figure, out / f"{change}-{axis}")
    paths: dict[str, list[list[Row]]] = {}
    for row in _kind(rows, "convergence"):
        for run in row["runs"]:
            paths.setdefault(run["method"], []).append(run["points"])
    series = [_curve(name, runs, "step") for name, runs in paths.items()]
    figure = curves_figure(
        series, xlabel="updates of the student", ylabel="validation accuracy", title="Students of a converged teacher"
    )
    write_figure(figure, out / "convergence")


def _curve(label: str, runs: Iterable[Sequence[Row]], axis: str) -> "Curve":
    from graftwork.reports import Curve

    columns = list(zip(*runs, strict=True))
    accuracies = [[point["accuracy"] for point in column] for column in columns]
    return Curve(
        label,
        [sum(point[axis] for point in column) / len(column) for column in columns],
        [sum(a) / len(a) for a in accuracies],
        [min(a) for a in accuracies],
        [max(a) for a in accuracies],
    )


def _moments(rows: Mapping[str, Row], change: str, axis: str) -> "list[Curve]":
    runs: dict[float, list[list[Row]]] = {}
    for row in _kind(rows, "grown"):
        o = row["options"]
        if o["change"] == change and o["schedule"] == "constant":
            runs.setdefault(o["moment"], []).append(
                next(run["points"] for run in row["runs"] if run["method"] == "r2r" and run["carry"])
            )
    return [_curve(f"grown at {round(100 * moment)} %", paths, axis) for moment, paths in runs.items()]


def _controls(rows: Mapping[str, Row], change: str, axis: str) -> "list[Curve]":
    runs: dict[str, list[list[Row]]] = {}
    for row in _kind(rows, "scratch"):
        o = row["options"]
        if o["change"] == change and o["schedule"] == "constant":
            ends = {p["step"]: p for run in row["runs"] for p in run["points"]}
            runs.setdefault(o["size"], []).append([ends[step] for step in sorted(ends)])
    return [_curve(f"{size} from scratch", paths, axis) for size, paths in runs.items()]
