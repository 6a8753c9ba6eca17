"""Numbers, tables and figures of the poster's growth at its own size, from the cells that are stored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments._common import Row, curve_bands, mean_and_spread, spread_text
from experiments.growing._grid import Table
from graftwork.metrics import bootstrap_interval

Run = dict[str, Any]
Key = tuple[str, ...]


def _runs(rows: Mapping[str, Row]) -> list[Run]:
    """All runs, each with its change and seed."""
    return [
        {**run, "change": r["options"]["change"], "seed": r["options"]["seed"]}
        for r in rows.values()
        for run in r["runs"]
    ]


def _label(run: Run) -> str:
    """What a run is, in words."""
    if run["arm"] == "grown":
        return f"grown at {round(100 * run['moment'])} %, {run['way']}"
    what = "base network" if run["arm"] == "base" else "small network"
    return what if run["budget"] is None else f"{what}, FLOPs of growth at {round(100 * run['budget'])} %"


def _correct(run: Run) -> NDArray[np.bool_]:
    """Which test images it gets right."""
    bits = np.frombuffer(bytes.fromhex(run["test_correct"]), dtype=np.uint8)
    found: NDArray[np.bool_] = np.unpackbits(bits).astype(bool)
    return found


def summarise(rows: Mapping[str, Row]) -> dict[str, Any]:
    """Every arm over seeds, and every growth against scratch with all updates and with its FLOPs."""
    arms: dict[Key, list[Run]] = {}
    for run in _runs(rows):
        arms.setdefault((run["change"], run["schedule"], _label(run)), []).append(run)
    return {
        "arms": [
            {**dict(zip(("change", "schedule", "arm"), key, strict=True)), **_arm(runs)} for key, runs in arms.items()
        ],
        "differences": _differences(arms),
        "test_openings": sum(len(runs) for runs in arms.values()),
        "data": next(iter(rows.values()))["data"],
    }


def _arm(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "seeds": [run["seed"] for run in runs],
        "test_accuracy": mean_and_spread([run["test_accuracy"] for run in runs]),
        "test_accuracy_by_seed": [run["test_accuracy"] for run in runs],
        "validation_accuracy": mean_and_spread([run["points"][-1]["accuracy"] for run in runs]),
        "flops": mean_and_spread([run["flops"] for run in runs]),
        "updates": mean_and_spread([run["steps"] for run in runs]),
    }


def _differences(arms: Mapping[Key, Sequence[Run]]) -> list[dict[str, Any]]:
    """Grown minus control on the same test images, seed by seed."""
    found = []
    for (change, schedule, label), runs in arms.items():
        if runs[0]["arm"] != "grown":
            continue
        moment = round(100 * runs[0]["moment"])
        equal = f"FLOPs of growth at {moment} %"
        for control in ("base network", f"base network, {equal}", f"small network, {equal}", "small network"):
            beside = {run["seed"]: run for run in _controls(arms, change, schedule, control)}
            pairs = [(run, beside[run["seed"]]) for run in runs if run["seed"] in beside]
            if pairs:
                found.append(
                    {"change": change, "schedule": schedule, "arm": label, "control": control, **_paired(pairs)}
                )
    return found


def _controls(arms: Mapping[Key, Sequence[Run]], change: str, schedule: str, control: str) -> Sequence[Run]:
    """Runs of a control; the base network with all updates is the same one for every change."""
    found = arms.get((change, schedule, control), ())
    if not found and control == "base network":
        return next((runs for (_, s, label), runs in arms.items() if (s, label) == (schedule, control)), ())
    return found


def _paired(pairs: Sequence[tuple[Run, Run]]) -> dict[str, Any]:
    values = [_correct(a).astype(float) - _correct(b) for a, b in pairs]
    rng = np.random.default_rng(0)
    return {
        "seeds": [run["seed"] for run, _ in pairs],
        "points": mean_and_spread([100 * float(v.mean()) for v in values]),
        "by_seed": [100 * float(v.mean()) for v in values],
        "intervals": [[100 * end for end in bootstrap_interval(v, rng=rng)] for v in values],
        "share_of_its_flops": pairs[0][0]["flops"] / pairs[0][1]["flops"],
    }


def tables(summary: Mapping[str, Any]) -> list[Table]:
    """Arms, then differences."""
    found = []
    for change in dict.fromkeys(entry["change"] for entry in summary["arms"]):
        lines = [
            [
                e["schedule"],
                e["arm"],
                f"{e['updates']['mean']:.0f}",
                f"{e['flops']['mean'] / 1e12:.2f}",
                _percent(e["validation_accuracy"]),
                _percent(e["test_accuracy"]),
                ", ".join(f"{100 * value:.2f}" for value in e["test_accuracy_by_seed"]),
            ]
            for e in summary["arms"]
            if e["change"] == change
        ]
        columns = ["schedule", "network", "updates", "TFLOP", "validation, %", "test, %", "test by seed"]
        found.append(Table(f"{change}: all networks", columns, lines))
    columns = [
        "change",
        "schedule",
        "growth",
        "against",
        "its FLOPs over that one's",
        "points",
        "95 % intervals by seed",
    ]
    lines = [
        [
            e["change"],
            e["schedule"],
            e["arm"],
            e["control"],
            f"{e['share_of_its_flops']:.3f}",
            spread_text(e["points"], "+.2f"),
            ", ".join(f"[{low:+.2f}, {high:+.2f}]" for low, high in e["intervals"]),
        ]
        for e in summary["differences"]
    ]
    return [*found, Table("Growth against its controls, test", columns, lines)]


def _percent(entry: Mapping[str, float]) -> str:
    return spread_text(entry, ".2f", factor=100)


def draw(rows: Mapping[str, Row], out: Path) -> None:
    """Validation accuracy against FLOPs and updates: the base network and every growth by blocks, mean and range."""
    from graftwork.reports import Curve, curves_figure, write_figure

    for change in dict.fromkeys(run["change"] for run in _runs(rows)):
        for schedule in ("constant", "stable, decay"):
            paths: dict[str, list[Run]] = {}
            for run in _runs(rows):
                plain = run["arm"] != "grown" and run["budget"] is None
                if run["change"] == change and run["schedule"] == schedule and (plain or run.get("way") == "blocks"):
                    paths.setdefault(_label(run), []).append(run)
            for axis, label in (("flops", "training FLOPs"), ("step", "updates")):
                series = []
                for name, runs in paths.items():
                    bands = curve_bands([[point["accuracy"] for point in run["points"]] for run in runs])
                    series.append(Curve(name, [point[axis] for point in runs[0]["points"]], *bands))
                if series:
                    title = f"{change}, {schedule}"
                    figure = curves_figure(series, xlabel=label, ylabel="validation accuracy", title=title)
                    write_figure(figure, out / f"{change}-{schedule.replace(', ', '-')}-{axis}")
