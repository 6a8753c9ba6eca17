"""The table of growths that come back to their ecosystem, as Markdown."""

from collections import Counter
from typing import Any


def table(result: dict[str, Any]) -> str:
    """Return the table and its totals, as Markdown."""
    rows = result["architectures"]
    kinds = list(dict.fromkeys(kind for row in rows.values() for kind in row["growths"]))
    lines = ["# Growths that come back to their ecosystem", ""]
    for kind in kinds:
        made = result["columns"][kind]
        lines += [
            f"## {kind}",
            "",
            f"`{made['command']}`, commit {made['provenance']['git_commit']}",
            "",
            "| architecture | outcome | gap | cache | padding | generate | round trip | moved | slots |",
        ]
        lines += ["|---|---|---:|---:|---:|---|---|---|---|"]
        for name, row in rows.items():
            entry = row["growths"].get(kind)
            if entry is not None:
                lines.append(f"| {name} | " + " | ".join(cells(entry)) + " |")
        entries = [row["growths"][kind]["outcome"] for row in rows.values() if kind in row["growths"]]
        text = ", ".join(f"{number} {outcome}" for outcome, number in sorted(Counter(entries).items()))
        trips = [row["growths"][kind].get("round trip") for row in rows.values() if kind in row["growths"]]
        text += f" ({trips.count('load_model')} come back by load_model)" if "load_model" in trips else ""
        lines += ["", f"{len(entries)} architectures: {text}.", ""]
        refused = {n: r["growths"][kind]["reason"] for n, r in rows.items() if "reason" in r["growths"].get(kind, {})}
        lines += [*(f"* {name}: {reason}" for name, reason in refused.items()), ""]
    return "\n".join(lines)


def cells(entry: dict[str, Any]) -> list[str]:
    """The cells of one growth."""
    if "gap" not in entry:
        return [entry["outcome"], *[""] * 7]

    def shown(value: Any) -> str:
        if value is None:
            return "–"
        return f"{value:.0e}" if isinstance(value, float) else {True: "same", False: "OTHER"}.get(value, str(value))

    names = ("gap", "cache", "padding", "generate", "round trip", "moved", "slots")
    return [entry["outcome"], *(shown(entry[name]) for name in names)]
