"""Numbers, tables and the figure of growth against the strict envelope, from the cells that are stored."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments._common import Row, curve_bands, mean_and_spread, spread_text
from experiments.growing._envelope import flops_to_reach
from experiments.growing._envelope_uses import use_tables, uses
from experiments.growing._grid import Table

Key = tuple[Any, ...]
PARTS = {
    "screen": "Screen, seed 0, first half of the held-out text",
    "claims": "Claims, second half of the held-out text",
}
"""Key of the summary → title. A screen chooses, claims are made on other seeds and other text."""


def size_names(row: Row) -> str:
    """What was trained: ``"w64d1"``, ``"w64d1 → w64d2"``."""
    return " → ".join(f"w{size['width']}d{size['depth']}" for size in row["options"]["sizes"])


def is_grown(row: Row) -> bool:
    """Whether it has grown on the way."""
    return len(row["options"]["sizes"]) > 1


def serves_several(row: Row) -> bool:
    """Whether it is a branch of one growing trunk for several budgets."""
    return bool(row["options"].get("at"))


def grouped(rows: Iterable[Row], *keys: str) -> dict[Key, list[Row]]:
    """Rows by what was trained and some of their options."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault((size_names(row), *(row["options"][key] for key in keys)), []).append(row)
    return found


def best_rates(rows: Iterable[Row], *keys: str) -> dict[Key, Row]:
    """The run with the lowest loss over rates, by seed, budget, what was trained, and further options."""
    return {key: min(some, key=_loss) for key, some in grouped(rows, "seed", "budget", *keys).items()}


def strict_envelope(rows: Iterable[Row]) -> dict[tuple[int, float], Row]:
    """The run from scratch with the lowest loss over sizes and rates, by seed and budget that several sizes had."""
    found: dict[tuple[int, float], list[Row]] = {}
    for (_, seed, budget), row in best_rates(row for row in rows if not is_grown(row)).items():
        found.setdefault((seed, budget), []).append(row)
    return {key: min(some, key=_loss) for key, some in found.items() if len(some) > 1}


def _loss(row: Row) -> float:
    return float(row["loss"])


def summarise(rows: Mapping[str, Row]) -> dict[str, Any]:
    """Screen and claims apart: scratch by size and rate, the envelope, and every growth against it."""
    parts = {
        "screen": [row for row in rows.values() if row["options"]["seed"] == 0],
        "claims": [row for row in rows.values() if row["options"]["seed"] != 0],
    }
    texts = {row["data"]["fingerprint"]: row["data"] for row in rows.values()}
    return {
        **{name: _part(part) for name, part in parts.items() if part},
        "commits": sorted({row["provenance"]["git_commit"] for row in rows.values() if "provenance" in row}),
        "claimed_flops": sum(row["flops"] for row in rows.values()),
        "data": list(texts.values()),
    }


def _part(every: Sequence[Row]) -> dict[str, Any]:
    rows = [row for row in every if not serves_several(row)]
    envelope = strict_envelope(rows)
    scratch = grouped([row for row in rows if not is_grown(row)], "rate", "budget")
    return {
        "seeds": sorted({row["options"]["seed"] for row in rows}),
        "scratch": [
            {"size": size, "rate": rate, "budget": budget, "loss": mean_and_spread([_loss(row) for row in some])}
            for (size, rate, budget), some in scratch.items()
        ],
        "envelope": [
            {"seed": seed, "budget": budget, "loss": row["loss"], "size": size_names(row), **_rate(row)}
            for (seed, budget), row in sorted(envelope.items())
        ],
        "growth": _growths(rows, envelope),
        **uses(every, envelope),
    }


def _rate(row: Row) -> dict[str, float]:
    return {"rate": row["options"]["rate"]}


def _growths(rows: Sequence[Row], envelope: Mapping[tuple[int, float], Row]) -> list[dict[str, Any]]:
    """Every growth at every budget, its rate chosen for each seed as that of the envelope is."""
    how = ("share", "init", "rewarmed")
    grown = [row for row in rows if is_grown(row)]
    seeds: dict[Key, dict[int, Row]] = {}
    for (sizes, seed, budget, *options), row in best_rates(grown, *how).items():
        seeds.setdefault((sizes, budget, *options), {})[seed] = row
    tried = grouped(grown, "budget", *how)
    found = []
    for key, by_seed in seeds.items():
        row = next(iter(by_seed.values()))
        pairs = {seed: (row, envelope[seed, key[1]]) for seed, row in by_seed.items() if (seed, key[1]) in envelope}
        found.append(
            {
                **dict(zip(("sizes", "budget", *how), key, strict=True)),
                "cost_ratio": row["update_flops"] / row["first_update_flops"],
                "tokens_per_parameter": row["tokens"] / row["parameters"],
                "rates_tried": sorted({row["options"]["rate"] for row in tried[key]}),
                "rates": {str(seed): row["options"]["rate"] for seed, row in by_seed.items()},
                "loss": mean_and_spread([_loss(row) for row in by_seed.values()]),
                "difference": mean_and_spread([_loss(a) - _loss(b) for a, b in pairs.values()]) if pairs else None,
                "share_of_flops": [_share(row, seed, envelope) for seed, (row, _) in pairs.items()],
            }
        )
    return found


def _share(row: Row, seed: int, envelope: Mapping[tuple[int, float], Row]) -> float | None:
    """Its budget over the FLOPs at which the envelope reaches its loss; None where no budgets run lie around that."""
    line = sorted((budget, _loss(best)) for (s, budget), best in envelope.items() if s == seed)
    needed = flops_to_reach(_loss(row), line)
    return round(row["options"]["budget"] / needed, 4) if 0 < needed < float("inf") else None


def tables(summary: Mapping[str, Any]) -> list[Table]:
    """From scratch, growth, and what was run and what was not."""
    found = []
    for name, title in PARTS.items():
        if name in summary:
            found += [_scratch_table(title, summary[name]), _growth_table(title, summary[name])]
            found += use_tables(title, summary[name])
    run, left = summary["cells"], summary["cells_not_run"]
    machine, texts = summary["provenance"]["machine"], summary["data"]
    facts = {
        "commit": ", ".join(summary["commits"]),
        "machine": f"{machine['processor']}, {machine['instruction_set']}, one process",
        "text": "; ".join(f"{text['text']}, {text['train_bytes'] / 1e6:.1f} MB to train on" for text in texts),
        "TFLOP that the runs count, each with its trunk": f"{summary['claimed_flops'] / 1e12:.1f}",
        "TFLOP that were trained, trunks shared": f"{summary['training_flops'] / 1e12:.1f}",
        "processor minutes": f"{summary['training_seconds'] / 60:.1f}",
    }
    found.append(Table("What was measured", ["what", "value"], [[key, str(value)] for key, value in facts.items()]))
    found.append(Table(f"Cells that were run: {len(run)}", ["cell"], [[f"`{cell}`"] for cell in run]))
    found.append(Table(f"Cells that were not run: {len(left)}", ["cell"], [[f"`{cell}`"] for cell in left]))
    return found


def _scratch_table(title: str, part: Mapping[str, Any]) -> Table:
    budgets = sorted({entry["budget"] for entry in part["scratch"]})
    runs: dict[tuple[str, float], dict[float, str]] = {}
    for entry in part["scratch"]:
        runs.setdefault((entry["size"], entry["rate"]), {})[entry["budget"]] = spread_text(entry["loss"])
    lines = [[size, f"{rate:g}", *(losses.get(b, "") for b in budgets)] for (size, rate), losses in runs.items()]
    best: dict[float, list[str]] = {}
    for entry in part["envelope"]:
        best.setdefault(entry["budget"], []).append(f"{entry['loss']:.4f} ({entry['size']}, {entry['rate']:g})")
    lines.append(["envelope, by seed", "", *("; ".join(best.get(b, [])) for b in budgets)])
    return Table(f"{title}: loss from scratch", ["size", "rate", *(f"{b:g} TFLOP" for b in budgets)], lines)


def _growth_table(title: str, part: Mapping[str, Any]) -> Table:
    columns = ["growth", "f", "new layers", "moments", "TFLOP", "r", "tokens per parameter"]
    columns += ["rates tried", "loss", "minus envelope", "share of its FLOPs"]
    lines = []
    for e in sorted(part["growth"], key=lambda e: (e["budget"], e["loss"]["mean"])):
        shares = ", ".join("–" if share is None else f"{share:.2f}" for share in e["share_of_flops"])
        lines.append(
            [
                e["sizes"],
                f"{e['share']:g}",
                e["init"],
                "re-warmed" if e["rewarmed"] else "carried",
                f"{e['budget']:g}",
                f"{e['cost_ratio']:.2f}",
                f"{e['tokens_per_parameter']:.0f}",
                ", ".join(f"{rate:g}" for rate in e["rates_tried"]),
                spread_text(e["loss"]),
                spread_text(e["difference"], "+.4f") if e["difference"] else "",
                shares,
            ]
        )
    return Table(f"{title}: growth", columns, lines)


def draw(rows: Mapping[str, Row], out: Path) -> None:
    """Loss of the envelope, and of each growth at its best, against FLOPs."""
    from graftwork.reports import Curve, curves_figure, write_figure

    for name in PARTS:
        some = [row for row in rows.values() if (row["options"]["seed"] == 0) == (name == "screen")]
        some = [row for row in some if not serves_several(row)]
        series = {"envelope": strict_envelope(some)}
        for (sizes, seed, budget), row in best_rates(row for row in some if is_grown(row)).items():
            series.setdefault(sizes, {})[seed, budget] = row
        curves = []
        for label, found in series.items():
            budgets = sorted({budget for _, budget in found})
            losses = [[_loss(row) for (_, b), row in found.items() if b == budget] for budget in budgets]
            if budgets:
                means, lows, highs = (list(values) for values in zip(*map(_band, losses), strict=True))
                curves.append(Curve(label, [budget * 1e12 for budget in budgets], means, lows, highs))
        if curves:
            figure = curves_figure(
                curves, xlabel="training FLOPs", ylabel="loss, nats a byte", title=f"Growth: {name}", log_x=True
            )
            write_figure(figure, out / name)


def _band(values: Sequence[float]) -> tuple[float, float, float]:
    mean, low, high = curve_bands([[value] for value in values])
    return mean[0], low[0], high[0]
