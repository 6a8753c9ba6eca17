"""What can be grown, in architectures that others wrote and in our own: the coverage table of `graftwork.surgery`.

    pip install graftwork[zoo]            # see docs/dependencies.md for the two packages that ask for torchvision
    python benchmarks/coverage.py --json results/coverage.json
    python benchmarks/coverage.py --only resnet-18 "transformers llama" --json build/some.json

Every architecture has a written list of the sites that a person would call widenable or deepenable (`benchmarks/zoo`).
Each listed site is grown by `r2r` in float64 on a fresh copy, and compared with the model before at four batch sizes in
evaluation and training mode. An architecture runs in a process of its own, with a time and a memory limit. The JSON is
rewritten after each, and a second call goes on where the first was stopped; every row names the commit that it was
measured at. The table stands beside it, as Markdown.
"""

import argparse
import importlib.metadata
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from graftwork.runs import provenance

sys.path.insert(0, str(Path(__file__).parent))

KINDS = ("widen", "deepen", "beyond")
MEMORY = 16 << 30  # bytes of address space: most of it is torch's own libraries


def measure_here(name: str, *, sites: int, seconds: float, out: Path) -> None:
    """Measure one architecture in this process, and write its row."""
    from zoo import ARCHITECTURES
    from zoo._measure import measure

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    row = measure(ARCHITECTURES[name], sites=sites, deadline=time.monotonic() + seconds)
    out.write_text(json.dumps(row))


def measure_apart(name: str, package: str, *, sites: int, seconds: float) -> dict[str, Any]:
    """Measure one architecture in its own process; a crash is a row."""
    row: dict[str, Any] = {"package": package}
    if package != "own":
        try:
            row["version"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return {**row, "status": "not installed"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        options = ["--sites", str(sites), "--seconds", str(seconds), "--json", str(out)]
        command = [sys.executable, __file__, "--here", name, *options]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=2 * seconds + 120)
        except subprocess.TimeoutExpired:
            return {**row, "status": "timed out"}
        if done.returncode or not out.is_file():
            lines = done.stderr.strip().splitlines()
            return {**row, "status": f"failed: {lines[-1] if lines else done.returncode}"[:300]}
        return {**row, "status": "measured", **json.loads(out.read_text())}


def brief(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row in which sites that were exact keep only what the table reads."""

    def short(entry: dict[str, Any]) -> dict[str, Any]:
        if entry["outcome"] != "exact":
            return entry
        still = {name: text for name, text in entry["still"].items() if text != "no gradient"}
        return {key: entry[key] for key in ("site", "outcome", "gap", "moved")} | {"still": still}

    return {**row, **{kind: [short(entry) for entry in row[kind]] for kind in KINDS if kind in row}}


def one_line_a_site(result: dict[str, Any]) -> str:
    """Return the result as JSON with a line for each site."""
    return json.dumps(result).replace('{"site"', '\n {"site"') + "\n"


def done(row: dict[str, Any], kind: str, outcome: str | None = None) -> int:
    """Return how many tried sites of a kind had an outcome (any, with None)."""
    return sum(outcome in (None, entry["outcome"]) for entry in row.get(kind, []))


def largest(rows: list[dict[str, Any]], *kinds: str) -> float:
    """Return the largest relative gap of the growths that were made."""
    return max((e["gap"] for row in rows for kind in kinds for e in row.get(kind, []) if "gap" in e), default=0.0)


def table(result: dict[str, Any]) -> str:
    """Return the table, the totals and the refusals by reason, as Markdown."""
    rows = result["architectures"]
    measured = [row for row in rows.values() if row["status"] == "measured"]
    introduction = INTRODUCTION.format(command=result["command"], commits=commits(result), **result["provenance"])
    lines = ["# Coverage of surgery", "", introduction, ""]
    lines += ["| " + " | ".join(HEADER) + " |"]
    lines += ["|---" + "|---:" * 13 + "|"]
    for name, row in rows.items():
        if row["status"] != "measured":
            lines.append(f"| {name} | {row['status']} " + "| " * 12 + "|")
            continue
        cells = [f"{name}", f"{row['parameters']:,}"]
        for kind in ("widen", "deepen"):
            cells += [row["listed"][kind], done(row, kind), done(row, kind, "exact"), done(row, kind, "refused")]
        cells += [f"{done(row, 'beyond', 'exact')} / {done(row, 'beyond')}", ", ".join(map(str, row["apart"].values()))]
        cells += [f"{largest([row], 'widen', 'deepen', 'beyond'):.1e}", "{} / {}".format(*moved([row]))]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, "", *totals(measured), "", *reasons(rows)]) + "\n"


HEADER = (
    *("architecture", "parameters", "widen: listed", "tried", "exact", "refused"),
    *("deepen: listed", "tried", "exact", "refused", "beyond the list: exact / tried"),
    *("apart: norm, output, fixed", "largest gap", "moved"),
)
INTRODUCTION = """`{command}`, graftwork {graftwork} at {commits}, Python {python}, float64, `r2r`.

*Listed*: sites on the written list of `benchmarks/zoo`, made before anything was measured; *tried*: a seeded sample
where a list is longer. *Exact*: the outputs differ by at most 1e-10 relative at every batch size (4, 1, 2, 5) and in
both modes. *Apart*: modules whose channels reach a LayerNorm or RMSNorm over channels, the model's output, or a
dimension that is no channel; they are refused, or stand under *beyond the list* where `growth_sites` offers them.
*Moved*: grown or new parameters of which a new slot has moved after three steps of Adam, of those that had a gradient
there."""


def commits(result: dict[str, Any]) -> str:
    """Return the commit that the rows were measured at; where it is not one, which rows at which."""
    found: dict[str, list[str]] = {}
    for name, row in result["architectures"].items():
        found.setdefault(row.get("commit") or result["provenance"]["git_commit"], []).append(name)
    if len(found) <= 1:
        return f"commit {next(iter(found), result['provenance']['git_commit'])}"
    often = max(found, key=lambda commit: len(found[commit]))
    others = [f"{', '.join(names)} at {commit}" for commit, names in found.items() if commit != often]
    return f"commit {often} (but {'; '.join(others)})"


def moved(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Return (moved, with a gradient) over all growths that were made."""
    entries = [e for row in rows for kind in KINDS for e in row.get(kind, []) if "moved" in e]
    count = sum(e["moved"] for e in entries)
    return count, count + sum(text != "no gradient" for e in entries for text in e["still"].values())


def totals(rows: list[dict[str, Any]]) -> list[str]:
    """Return the sums over architectures."""
    others = sum(row["package"] != "own" for row in rows)
    lines = ["## Totals", "", f"{len(rows)} architectures measured, {others} of them written by others.", ""]
    lines += ["| | listed | tried | exact | share | inexact | refused | wrong, crashed or left dirty | largest gap |"]
    lines += ["|---" + "|---:" * 8 + "|"]
    for kind, label in (("widen", "widen"), ("deepen", "deepen"), ("beyond", "widen, beyond the list")):
        tried = sum(done(row, kind) for row in rows)
        counts = Counter(entry["outcome"] for row in rows for entry in row.get(kind, []))
        bad = counts["WRONG"] + counts["CRASH"] + counts["DIRTY"]
        share = f"{100 * counts['exact'] / tried:.1f} %" if tried else ""
        cells = [label, sum(row["listed"][kind] for row in rows), tried, counts["exact"], share, counts["inexact"]]
        cells += [counts["refused"], bad, f"{largest(rows, kind):.1e}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    count, possible = moved(rows)
    return [*lines, "", f"Moved after three steps: {count} of {possible} grown or new parameters that had a gradient."]


def reasons(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return refusals of listed sites by reason, and everything that went wrong by name."""
    lines = ["## Refusals of listed sites, by reason", "", "| | sites | reason | where |", "|---|---:|---|---|"]
    for kind in ("widen", "deepen"):
        found: dict[str, list[str]] = {}
        for name, row in rows.items():
            for entry in row.get(kind, []):
                if entry["outcome"] == "refused":
                    found.setdefault(entry["reason"], []).append(name)
        for text, names in sorted(found.items(), key=lambda item: -len(item[1])):
            lines.append(f"| {kind} | {len(names)} | {text} | {', '.join(dict.fromkeys(names))} |")
    bad = [(name, kind, entry) for name, row in rows.items() for kind in KINDS
           for entry in row.get(kind, []) if entry["outcome"] not in ("exact", "refused")]  # fmt: skip
    lines += ["", "## Everything that is neither exact nor refused", ""]
    lines += [f"* {name}, {kind} {entry['site']}: {entry['outcome']}, {entry.get('gap', entry.get('reason'))}"
              for name, kind, entry in bad] or ["Nothing."]  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="architectures or packages; all without it")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--sites", type=int, default=16, help="sites of each kind, at most (16)")
    parser.add_argument("--seconds", type=float, default=900, help="time for one architecture (900)")
    parser.add_argument("--again", action="store_true", help="measure anew what the JSON already holds")
    parser.add_argument("--here", metavar="NAME", help="measure one architecture in this process and write its row")
    given = parser.parse_args()
    if given.here:
        measure_here(given.here, sites=given.sites, seconds=given.seconds, out=given.json)
        return
    from zoo import ARCHITECTURES

    names = [n for n, a in ARCHITECTURES.items() if not given.only or n in given.only or a.package in given.only]
    if unknown := set(given.only or ()) - set(names) - {a.package for a in ARCHITECTURES.values()}:
        parser.error(f"no architecture or package {sorted(unknown)}: pick from {', '.join(ARCHITECTURES)}")
    old = json.loads(given.json.read_text()) if given.json.is_file() else {"architectures": {}}
    held = {name: {"commit": old["provenance"]["git_commit"], **row} for name, row in old["architectures"].items()}
    commit = provenance()["git_commit"]
    command = f"python benchmarks/coverage.py --sites {given.sites} --json {given.json}"
    for name in names:
        if name not in held or given.again or held[name]["status"] != "measured":
            began = time.monotonic()
            row = measure_apart(name, ARCHITECTURES[name].package, sites=given.sites, seconds=given.seconds)
            held[name] = {"commit": commit, **brief(row)}
            print(f"{name}: {held[name]['status']}, {time.monotonic() - began:.0f} s", flush=True)
        ordered = {key: held[key] for key in ARCHITECTURES if key in held}
        result = {"command": command, "provenance": provenance(), "architectures": ordered}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(one_line_a_site(result))
        given.json.with_suffix(".md").write_text(table(result))


if __name__ == "__main__":
    main()
