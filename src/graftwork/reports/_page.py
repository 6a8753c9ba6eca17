"""The page: what each part says, as plain data for the template."""

import json
import shlex
from collections.abc import Mapping
from functools import cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork._version import __version__
from graftwork.metrics import Profile
from graftwork.reports._data import class_table, decisions, warnings
from graftwork.reports._format import compact, flops_text, interval_text, percent
from graftwork.reports._images import FileNames, ImageSource, sheet_uri, slot
from graftwork.reports._mistakes import class_rows, confusion_view, mistakes_view
from graftwork.reports._networks import network_table
from graftwork.reports._profile import profile_geometry, ruler_of
from graftwork.reports._read import CONTROL, RunData
from graftwork.reports._standing import difference, standings
from graftwork.reports._style import DARK, PAPER, inline_svg, member_colors
from graftwork.typing import MemberId

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

_THUMBS_PER_MEMBER, _THUMBS = 14, 160

SECTIONS: Mapping[str, str] = {
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
"""Sections of the page: title by id."""
_TITLES = {
    "lineage": "Family tree of the search: one row a member, time from left to right",
    "accuracy_flops": "Validation accuracy of every member against training FLOPs",
    "accuracy_steps": "Validation accuracy of every member against updates",
    "accuracy_seconds": "Validation accuracy of every member against seconds",
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
    section: str | None = None,
    profile: Profile | None = None,
    images: ImageSource | None = None,
    file_names: FileNames | None = None,
) -> str:
    """Put a run's page together, or a section of it.

    Args:
        run: what it tells of.
        figures: SVG text by name.
        section: id of the section; None for the whole page.
        profile: of the survivors on validation; None leaves the section out.
        images: the data set's images; None leaves the pictures out.
        file_names: names of their files; None leaves them out.

    Returns:
        HTML that loads nothing; empty for a section that the run has nothing for.
    """
    context, template = _context(run, figures, profile, images, file_names), _template()
    if section is not None:
        return "".join(template.blocks[section](template.new_context(context))).strip()
    return template.render({**context, "contents": _contents(context)})


def page_style() -> str:
    """Style sheet of the page, with its colors on light and dark pages and on paper."""
    light, dark = {color: color for color in DARK}, DARK
    media = (
        ("all", light, "#f4f6f8", PAPER),
        ("(prefers-color-scheme: dark)", dark, "#0f1317", DARK[PAPER]),
        ("print", light, "#ffffff", "#ffffff"),
    )
    rules = []
    for medium, colors, page, card in media:
        names = "".join(f"--c{name[1:]}: {color}; " for name, color in colors.items())
        rules.append(f"@media {medium} {{ :root {{ {names}--page: {page}; --card: {card}; }} }}\n")
    return "".join(rules) + _own("page.css")


def page_script() -> str:
    """Script of the page: what the profile and the confusion matrix say at the pointer, or by the keys."""
    return _own("page.js")


def _own(name: str) -> str:
    return (files("graftwork.reports") / name).read_text(encoding="utf-8")


@cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(_own("page.html.jinja"))


def _context(
    run: RunData,
    figures: Mapping[str, str],
    profile: Profile | None,
    images: ImageSource | None,
    file_names: FileNames | None,
) -> dict[str, Any]:
    from markupsafe import Markup

    drawn = {n: Markup(inline_svg(svg, n, _title(n))) for n, svg in figures.items()}  # noqa: S704  # our own drawings
    return {
        "run": run,
        "version": __version__,
        "css": Markup(page_style()),  # noqa: S704  # our own file
        "script": Markup(page_script()),  # noqa: S704
        "figures": drawn,
        "figure": partial(_figure, drawn),
        "genomes": [name for name in figures if name.startswith("genome_")],
        "facts": _facts(run),
        "unfinished": _unfinished(run),
        "warnings": warnings(run),
        "headline": _headline(run),
        "table": network_table(run),
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


def _figure(drawn: "Mapping[str, Markup]", name: str, caption: str, wide: bool = False) -> "Markup | str":
    """A figure with its caption; nothing where it was not drawn."""
    from markupsafe import Markup

    if name not in drawn:
        return ""
    return Markup(
        '<figure class="card{}" id="{}">\n<div class="scroll" tabindex="0" role="region" aria-label="scrolls sideways">'
        "{}</div>\n{}</figure>\n"
    ).format(
        " wide" if wide else "",
        name,
        drawn[name],
        Markup("<figcaption>{}</figcaption>\n").format(caption) if caption else "",
    )


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
    return [(name, title) for name, title in SECTIONS.items() if there.get(name, True)]


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
