"""Arms side by side: summaries over seeds, Markdown and bars."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments._common import Row, mean_and_spread, spread_text
from experiments._entries import BEST, CHOSEN, ORACLE


def summarise_arms(rows: Sequence[Row]) -> dict[str, Any]:
    """Over seeds: every number of every arm and line, and the differences with the interval of each seed.

    Args:
        rows: Each with ``arms`` (arm → line → numbers), ``diversity`` (arm → measures) and ``differences``
            (name → value and interval). An arm that only some seeds have is summarised over those.
    """
    arms = {
        arm: {line: _numbers([r["arms"][arm][line] for r in _with(rows, arm)]) for line in _lines(rows, arm)}
        for arm in _keys([row["arms"] for row in rows])
    }
    measures = {
        arm: _numbers([row["diversity"][arm] for row in rows if row["diversity"].get(arm)])
        for arm in _keys([row["diversity"] for row in rows])
    }
    differences = {
        name: {
            **mean_and_spread([row["differences"][name]["value"] for row in rows if name in row["differences"]]),
            "intervals": [row["differences"][name]["interval"] for row in rows if name in row["differences"]],
        }
        for name in _keys([row["differences"] for row in rows])
    }
    return {"arms": arms, "diversity": measures, "differences": differences}


def _keys(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for part in parts for key in part))


def _with(rows: Sequence[Row], arm: str) -> list[Row]:
    return [row for row in rows if arm in row["arms"]]


def _lines(rows: Sequence[Row], arm: str) -> list[str]:
    return _keys([row["arms"][arm] for row in _with(rows, arm)])


def _numbers(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and spread of every number that all entries have, and which method each names, where they name one."""
    keys = [key for key in _keys(entries) if all(isinstance(e.get(key), (int, float)) for e in entries)]
    found: dict[str, Any] = {key: mean_and_spread([entry[key] for entry in entries]) for key in keys}
    if all("method" in entry for entry in entries):
        found["methods"] = [entry["method"] for entry in entries]
    return found


def format_spread(numbers: Mapping[str, float]) -> str:
    """Mean ± deviation over seeds, in percent (points)."""
    return spread_text(numbers, ".2f", factor=100)


def table_of_arms(summary: Mapping[str, Any]) -> str:
    """Markdown: one column an arm, one line a network or ensemble; test accuracy in percent."""
    arms = summary["arms"]
    lines = [line for line in _keys(list(arms.values())) if line != ORACLE] + [ORACLE]
    rows = [f"| test accuracy, % | {' | '.join(arms)} |", "|---" * (len(arms) + 1) + "|"]
    for line in lines:
        cells = [format_spread(arms[a][line]["test_accuracy"]) if line in arms[a] else "–" for a in arms]
        rows.append(f"| {line} | {' | '.join(cells)} |")
    seeds = [str(next(iter(arm.values()))["test_accuracy"]["num"]) for arm in arms.values()]
    return "\n".join([*rows, f"| seeds | {' | '.join(seeds)} |"]) + "\n"


def differences_table(summary: Mapping[str, Any]) -> str:
    """Markdown: differences in points, over seeds and with the interval of each seed."""
    rows = ["| difference, points | over seeds | 95 % interval of each seed |", "|---|---|---|"]
    for name, found in summary["differences"].items():
        intervals = ", ".join(f"[{100 * low:+.2f}, {100 * high:+.2f}]" for low, high in found["intervals"])
        rows.append(f"| {name} | {format_spread(found)} | {intervals} |")
    return "\n".join(rows) + "\n"


def bars_of_arms(summary: Mapping[str, Any], path: Path, *, title: str) -> None:
    """Draw best member, chosen ensemble and oracle of every arm; intervals span the seeds."""
    from graftwork.reports import Bar, bars_figure, write_figure

    bars = [
        Bar(f"{arm}: {line}", *(100 * lines[line]["test_accuracy"][key] for key in ("mean", "min", "max")))
        for arm, lines in summary["arms"].items()
        for line in (BEST, CHOSEN if CHOSEN in lines else "mean", ORACLE)
        if line in lines
    ]
    members = [bar.label for bar in bars if not bar.label.endswith(ORACLE)]
    write_figure(bars_figure(bars, xlabel="test accuracy, %", title=title, highlight=members), path)


def draw_arms(summary: Mapping[str, Any], pair: Sequence[Path], out: Path) -> None:
    """Draw the bars of arms at equal FLOPs, and the profiles of two runs side by side where both are at hand."""
    from graftwork.reports import profile_figure, read_run, write_figure

    bars_of_arms(summary, out / "accuracy", title="Equal FLOPs")
    if all((path / "result.json").is_file() for path in pair):
        write_figure(profile_figure(*map(read_run, pair)), out / "profiles")
