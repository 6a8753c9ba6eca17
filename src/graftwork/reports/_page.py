"""The page: what each part says, as plain data for the template."""

import json
import shlex
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np

from graftwork._version import __version__
from graftwork.metrics import Profile
from graftwork.reports._data import class_table, decisions, warnings
from graftwork.reports._format import compact, flops_text, interval_text, percent, short_transform
from graftwork.reports._images import FileNames, ImageSource, sheet_uri, slot
from graftwork.reports._mistakes import class_rows, confusion_view, mistakes_view
from graftwork.reports._profile import profile_geometry, ruler_of
from graftwork.reports._read import CONTROL, RunData
from graftwork.reports._standing import difference, standings
from graftwork.reports._style import DARK, INK, inline_svg, member_colors
from graftwork.runs import MemberRow, NetworkLatency
from graftwork.typing import MemberId

_THUMBS_PER_MEMBER, _THUMBS = 14, 160

_SECTIONS = {
    "outcome": "Outcome",
    "data": "The data",
    "tree": "Who came from whom",
    "grafts": "What was grafted where",
    "cost": "What accuracy costs",
    "right": "Who gets what right",
    "errors": "Where the best member errs",
    "way": "Along the way",
    "next": "What to do next",
    "provenance": "Provenance",
}
_TITLES = {
    "lineage": "Family tree of the search: one row a member, time from left to right",
    "accuracy_flops": "Validation accuracy of every member against training FLOPs",
    "accuracy_steps": "Validation accuracy of every member against updates",
    "standing": "Test accuracy of survivors, ensembles and control, with 95 % intervals",
    "pareto_flops": "Accuracy against FLOPs of one image",
    "pareto_parameters": "Accuracy against number of parameters",
    "profile": "Which validation examples each survivor gets right",
    "confusion": "Confusion matrix of the best member on test",
    "calibration": "Confidence against the share of right answers",
    "training": "Loss and learning rate against updates",
    "diversity": "Diversity of the population over the generations",
}
"""What figures show, for readers who can't see them."""


def render_page(
    run: RunData,
    figures: Mapping[str, str],
    *,
    profile: Profile | None = None,
    images: ImageSource | None = None,
    file_names: FileNames | None = None,
) -> str:
    """Put a run's page together.

    Args:
        run: what it tells of.
        figures: SVG text by name.
        profile: of the survivors on validation; None leaves the section out.
        images: the data set's images; None leaves the pictures out.
        file_names: names of their files; None leaves them out.

    Returns:
        HTML that loads nothing.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = files("graftwork.reports")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((folder / "page.html.jinja").read_text(encoding="utf-8"))
    context: dict[str, Any] = {
        "run": run,
        "version": __version__,
        "colors": [(light[1:], light, dark) for light, dark in DARK.items()],
        "css": Markup((folder / "page.css").read_text(encoding="utf-8")),  # noqa: S704  # our own file
        "script": Markup((folder / "page.js").read_text(encoding="utf-8")),  # noqa: S704
        "figures": {n: Markup(inline_svg(svg, n, _title(n))) for n, svg in figures.items()},  # noqa: S704
        "genomes": [name for name in figures if name.startswith("genome_")],
        "facts": _facts(run),
        "unfinished": _unfinished(run),
        "warnings": warnings(run),
        "headline": _headline(run),
        "table": _table(run),
        "latency_batch": run.result["latency"]["batch_size"] if run.result else None,
        "has_control": bool(run.entry(CONTROL)),
        "profile": _profile(run, profile, images) if profile is not None else None,
        "mistakes": mistakes_view(run, images, file_names),
        "confusion": confusion_view(run),
        "per_class": class_rows(run),
        "class_table": class_table(run),
        "decisions": decisions(run),
        "next_steps": _next_steps(run),
        "provenance": [
            (name, text) for name, text in _flatten(run.provenance) if not name.startswith("data.per_class")
        ],
        "result_json": json.dumps(run.result, indent=2, ensure_ascii=False) if run.result is not None else "",
    }
    return template.render({**context, "contents": _contents(context)})


def _title(figure: str) -> str:
    return (
        _TITLES.get(figure) or f"Architecture of {figure.removeprefix('genome_')}: layers of blocks, as text above it"
    )


def _contents(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Sections that the page has: id and title."""
    there = {
        "data": context["class_table"] or context["decisions"],
        "tree": "lineage" in context["figures"],
        "grafts": context["genomes"],
        "right": context["profile"],
        "errors": context["confusion"],
        "way": any(name in context["figures"] for name in ("training", "accuracy_steps")),
    }
    return [(name, title) for name, title in _SECTIONS.items() if there.get(name, True)]


def _next_steps(run: RunData) -> list[tuple[str, str]]:
    """What to do with the run, and the command for it."""
    name = shlex.quote(run.name)
    if not run.finished:
        return [("Go on with the search", f"graftwork search --resume {name}")]
    steps = [("Classify new images with the best member", f"graftwork predict {name} IMAGES --out predictions.csv")]
    if run.recommended is not None:
        command = f"graftwork predict {name} IMAGES --ensemble {run.recommended} --out predictions.csv"
        steps.append(("The same with the recommended ensemble", command))
    return [
        *steps,
        ("Take the best member out as plain PyTorch, or for onnxruntime", f"graftwork export {name} --to onnx"),
        ("Write this page again, with pictures", f"graftwork report {name} --with-data"),
    ]


def _facts(run: RunData) -> list[str]:
    result: Mapping[str, Any] = run.result or {}
    facts = [f"{name} {_plain(result[name])}" for name in ("data", "recipe", "selection") if result.get(name)]
    classes = len(run.class_names)
    if classes:
        facts.insert(1 if result.get("data") else 0, f"{classes} classes")
    if "seed" in result:
        facts.append(f"seed {result['seed']}")
    if result.get("test_opened_at"):
        facts.append(f"test split opened {result['test_opened_at']}")
    return facts


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return str(value.get("name") or value.get("kind") or json.dumps(value))
    return str(value)


def _unfinished(run: RunData) -> str:
    if not run.rounds:
        return "No generation is complete yet."
    last = run.rounds[-1]
    return (
        f"Shown is what there is after generation {last.generation} ({last.step:,} updates, "
        f"{flops_text(last.training_flops)}s of training). The test split has not been opened: all accuracies are "
        "on validation."
    )


def _headline(run: RunData) -> dict[str, Any] | None:
    if run.best is None or (run.result is None and run.best not in run.scores):
        return None
    if run.result is None:
        score = run.scores[run.best][-1]
        return {
            "label": f"validation accuracy of {run.best}, the best so far",
            "number": percent(score.validation_accuracy),
            "interval": "",
            "sentences": [],
            "tiles": _tiles(run, score.parameters, score.flops),
        }
    best = run.result["best"]
    return {
        "label": f"test accuracy of {run.best}, the best member on validation",
        "number": percent(best["test_accuracy"]),
        "interval": f"95 % interval {interval_text(*best['test_interval'])}",
        "sentences": _sentences(run),
        "tiles": _tiles(run, best["parameters"], best["flops"]),
    }


def _sentences(run: RunData) -> list[str]:
    sentences: list[str] = []
    gap = difference(run)
    control = run.entry(CONTROL)
    if gap is not None and control is not None:
        range_text = ""
        if gap.interval is not None:
            low, high = (100 * bound for bound in gap.interval)
            range_text = f" (95 % interval {low:+.2f} to {high:+.2f}, same examples)"
        sentences.append(
            f"The seed network, trained alone for the same FLOPs, reaches {percent(control['test_accuracy'])}. "
            f"The difference is {100 * gap.value:+.2f} points{range_text}: {gap.verdict}."
        )
    else:
        sentences.append("This run has no control: how the seed network alone would do for the same FLOPs is unknown.")
    if run.result is not None:
        best, always = run.result["best"], run.result["majority"]
        sentences.append(
            f"Balanced accuracy, in which every class counts the same, is {percent(best['balanced_accuracy'])}. Always "
            f"saying “{always['name']}”, the most frequent class, would reach an accuracy of "
            f"{percent(always['test_accuracy'])} and a balanced one of {percent(always['balanced_accuracy'])}."
        )
    chosen = next((row for row in standings(run) if (row.kind, row.id) == ("ensemble", run.recommended)), None)
    if chosen is not None:
        sentences.append(
            f"The recommended ensemble ({chosen.id}, chosen on the blend split) reaches "
            f"{percent(chosen.test_accuracy)} on test (95 % interval {interval_text(*chosen.interval)})."
        )
    return sentences


def _tiles(run: RunData, parameters: int, flops: float) -> list[tuple[str, str]]:
    result: Mapping[str, Any] = run.result or {}
    tiles = [("parameters", compact(parameters)), ("FLOPs an image", compact(flops))]
    spent = result.get("training_flops", run.rounds[-1].training_flops if run.rounds else None)
    if spent is not None:
        tiles.append(("training FLOPs", compact(spent)))
    if result.get("seconds") is not None:
        minutes, seconds = divmod(round(result["seconds"]), 60)
        tiles.append(("time", f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"))
    tiles.append(("members tried", str(len(run.births))))
    if run.rounds:
        tiles.append(("generations", str(run.rounds[-1].generation)))
    return tiles


def _table(run: RunData) -> list[dict[str, Any]]:
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


def _profile(run: RunData, profile: Profile, images: ImageSource | None) -> dict[str, Any]:
    predictions = run.predictions["validation"]
    labels, index = predictions.labels[profile.order], predictions.index[profile.order]
    members = [row.name for row in profile.rows if row.kind == "member"]
    colors = member_colors(run.ranked)
    chosen = [np.flatnonzero(profile.loners == place)[:_THUMBS_PER_MEMBER] for place in range(len(members))]
    shown = np.concatenate(chosen)[:_THUMBS] if images is not None and len(members) > 1 else np.array([], dtype=int)
    slots = {int(position): slot(place, len(shown)) for place, position in enumerate(shown)}
    groups = [
        {
            "name": name,
            "color": f"var(--c{colors[MemberId(name)][1:]})",
            "count": int(np.count_nonzero(profile.loners == place)),
            "thumbs": [
                {"at": slots[at], "title": f"{run.class_names[labels[at]]}, example {index[at]}"}
                for at in chosen[place].tolist()
                if at in slots
            ],
        }
        for place, name in enumerate(members)
    ]
    ruler = ruler_of(profile)
    return {
        "sheet": sheet_uri(images("validation", index[shown])) if images is not None and len(shown) else "",
        "count": len(shown),
        "loners": [group for group in groups if group["count"]] if len(members) > 1 else [],
        "summary": _profile_summary(profile, len(members)),
        "data": {
            **profile_geometry(),
            "positions": list(ruler.positions),
            "places": [round(place, 6) for place in ruler.places],
            "rows": [{"name": r.name, "member": r.kind == "member", "runs": r.runs()} for r in profile.rows],
            "labels": labels.tolist(),
            "index": index.tolist(),
            "classes": list(run.class_names),
            "thumbs": slots,
        },
    }


def _profile_summary(profile: Profile, num_members: int) -> str:
    by_kind = {row.kind: row.accuracy for row in profile.rows}
    if num_members < 2:
        return "One survivor: vote and oracle are the member itself."
    alone = int(np.count_nonzero(profile.loners >= 0))
    return (
        f"{alone:,} example{' is' if alone == 1 else 's are'} right for one member alone. "
        f"The vote gets {percent(by_kind['vote'])}, the oracle {percent(by_kind['oracle'])}. "
        "Point at the picture, or go through it by the arrow keys, to see an example."
    )


def _flatten(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in data.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            rows.append((f"{prefix}{name}", text))
    return rows
