"""The table of networks: survivors, ensembles, the control and the most frequent class."""

from collections.abc import Mapping
from typing import Any

from graftwork.reports._format import compact, interval_text, percent, short_transform
from graftwork.reports._read import CONTROL, RunData
from graftwork.reports._style import INK, member_colors
from graftwork.runs import MemberRow, NetworkLatency
from graftwork.typing import MemberId


def network_table(run: RunData) -> list[dict[str, Any]]:
    """Cells of each row, as text: survivors in order of choice first."""
    colors = member_colors(run.ranked)
    rows = [_row(run, i, str(i), f"var(--c{colors[i][1:]})") for i in run.survivors if i in colors]
    for entry in (run.result["ensemble"] if run.result else None) or ():
        method, text = entry["method"], f"{entry['num_members']} members"
        name = f"ensemble: {method}" + (", recommended" if method == run.recommended else "")
        cells = _cells(entry, name, f"var(--c{INK[1:]})", grown=text)
        measured = run.result["latency"]["ensembles"].get(method) if run.result else None
        rows.append({**cells, "latency": _both(measured)})
    if run.entry(CONTROL):
        rows.append(_row(run, CONTROL, "seed network, alone", f"var(--c{INK[1:]})"))
    if run.result is not None:
        always = run.result["majority"]
        rows.append(_cells(always, f"always “{always['name']}”", f"var(--c{INK[1:]})", grown="–"))
    return rows


def _row(run: RunData, member_id: MemberId, name: str, color: str) -> dict[str, Any]:
    entry: Mapping[str, Any] = run.entry(member_id) or _entry_of(run.scores.get(member_id, ()))
    ancestry = [birth for birth in run.ancestors(member_id) if birth.parent is not None]
    phrases = [f"{short_transform(birth.transform, limit=80)} ({birth.generation})" for birth in ancestry]
    grown = "the seed"
    if phrases:
        grown = phrases[0] if len(phrases) == 1 else f"{len(phrases)} grafts, the last: {phrases[-1]}"
    member = run.members.get(member_id)
    return {
        **_cells(entry, name, color, grown=grown),
        "history": " → ".join(phrases) if len(phrases) > 1 else "",
        "latency": _latency_text(run, member_id),
        "best": member_id == run.best,
        "layers": len(member.genome.layers) if member else "–",
        "blocks": sum(1 for _ in member.genome.blocks()) if member else "–",
    }


def _latency_text(run: RunData, member_id: MemberId) -> str:
    """Milliseconds of a network, as the run measured them."""
    return _both(run.result["latency"]["networks"].get(member_id) if run.result else None)


def _both(measured: NetworkLatency | None) -> str:
    """Milliseconds for one image and for a batch."""
    return f"{measured['one']:.3g} / {measured['batch']:.3g}" if measured else "–"


def _entry_of(scores: tuple[MemberRow, ...]) -> dict[str, Any]:
    if not scores:
        return {}
    last = scores[-1]
    return {
        "validation_accuracy": last.validation_accuracy,
        "parameters": last.parameters,
        "flops": last.flops,
    }


def _cells(entry: Mapping[str, Any], name: str, color: str, *, grown: str) -> dict[str, Any]:
    return {
        "name": name,
        "color": color,
        "best": False,
        "test": percent(entry.get("test_accuracy")),
        "interval": interval_text(*entry["test_interval"]) if "test_interval" in entry else "–",
        "balanced": percent(entry.get("balanced_accuracy")),
        "f1": percent(entry.get("macro_f1")),
        "validation": percent(entry.get("validation_accuracy")),
        "validation_interval": interval_text(*entry["validation_interval"]) if "validation_interval" in entry else "–",
        "parameters": f"{entry['parameters']:,}" if entry.get("parameters") is not None else "–",
        "flops": compact(entry["flops"]) if entry.get("flops") is not None else "–",
        "latency": "–",
        "layers": "–",
        "blocks": "–",
        "grown": grown,
        "history": "",
    }
