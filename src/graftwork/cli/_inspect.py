"""``graftwork inspect`` and ``graftwork data``."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from graftwork.cli import _options as options
from graftwork.cli._app import app, emit, share, tell
from graftwork.errors import InputError

_SHOWN = 50
"""Lines of what was passed over; ``--json`` tells all."""


@app.command()
def inspect(
    target: Annotated[Path, typer.Argument(help="A run folder, a member's or a genome's JSON file, or a checkpoint.")],
    as_json: options.Json = False,
) -> None:
    """Show what a run, a member, a genome or a checkpoint is."""
    found = _inspect(target)
    if as_json:
        emit(found["data"])
    else:
        tell(found["text"])


def _inspect(target: Path) -> dict[str, Any]:
    for marks, show in (((target / "config.toml").is_file(), _run), ((target / "state.json").is_file(), _checkpoint)):
        if marks:
            return _shown(show, target)
    if target.is_file() and target.suffix == ".json":
        return _shown(_json_file, target)
    raise InputError(
        f"{target}: expected a run folder (config.toml), a checkpoint (state.json) or the JSON of a member or genome"
    )


def _shown(show: Callable[[Path], dict[str, Any]], target: Path) -> dict[str, Any]:
    try:
        return show(target)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{target}: damaged: something is missing or of another kind ({error!r})") from error


def _json_file(path: Path) -> dict[str, Any]:
    from graftwork._files import parse_json, read_named
    from graftwork.networks.genome import Genome, draw

    data = parse_json(read_named(path), str(path))
    if not isinstance(data, dict) or "genome" not in data:
        return {"data": data, "text": draw(Genome.from_dict(data))}
    line = " → ".join(f"{birth['id']} ({birth['transform']})" for birth in data["ancestors"])
    scores = ", ".join(f"{name.split('_')[0]} {data[name]}" for name in ("validation_accuracy", "test_accuracy"))
    return {"data": data, "text": f"{data['id']}: {scores}\n{line}\n{draw(Genome.from_dict(data['genome']))}"}


def _run(path: Path) -> dict[str, Any]:
    from graftwork.runs import GenerationRow, MemberRow, RunFolder, run_state

    run, (state, owner) = RunFolder.open(path), run_state(path)
    rows, result = run.records(), run.result() if run.finished else None
    rounds = [row for row in rows if isinstance(row, GenerationRow)]
    scores = {
        (row.generation, row.id): row.validation_accuracy
        for row in rows
        if isinstance(row, MemberRow) and row.type == "member"
    }
    more = {"running": f" by {owner}", "finished": ""}.get(state, f"; go on with: graftwork search --resume {path}")
    lines = [f"{path}: {state}{more}"]
    for row in rounds:
        best = scores.get((row.generation, row.best), float("nan"))
        lines.append(
            f"  generation {row.generation:>3}: best {row.best:<5} {best:.4f} validation, {len(row.members)} members, "
            f"survivors {', '.join(row.survivors)}, {row.training_flops / 1e15:.4g} PFLOP"
        )
    lines += [
        f"  {entry['id']}: test {share(entry['test_accuracy'], entry['test_interval'])}, "
        f"{entry['parameters']:,} parameters"
        for entry in (result["survivors"] if result else ())
    ]
    data = {"state": state, "rounds": [asdict(row) for row in rounds], "result": result}
    return {"data": data, "text": "\n".join(lines)}


def _checkpoint(path: Path) -> dict[str, Any]:
    from graftwork._files import inside, parse_json, read_bytes

    state = parse_json(read_bytes(inside(path, "state.json")), f"{path / 'state.json'}")
    inner = state["search"]
    summary = {
        key: inner[key] for key in ("generation", "step", "training_flops", "scoring_flops", "alive", "survivors")
    }
    summary |= {"blocks": len(inner["bank"]), "births": len(inner["lineage"]), "seconds": state["seconds"]}
    return {"data": summary, "text": "\n".join(f"{key}: {value}" for key, value in summary.items())}


@app.command()
def data(
    data: options.Data = None,
    seed: options.Seed = None,
    image_size: options.ImageSize = None,
    image_column: options.ImageColumn = None,
    label_column: options.LabelColumn = None,
    group_column: options.GroupColumn = None,
    image_root: options.ImageRoot = None,
    skip_bad_images: options.SkipBad = None,
    config: options.Config = None,
    as_json: options.Json = False,
) -> None:
    """Show what was found in a data set: shape, classes, splits, fingerprint."""
    from graftwork.session import Problem, SearchConfig

    flags = {key: value for key, value in dict(locals()).items() if key not in ("config", "as_json")}
    flags = {key: value for key, value in flags.items() if key not in ("Problem", "SearchConfig")}
    found = Problem.load(SearchConfig.load(config, **flags)).describe()
    if as_json:
        emit(found)
        return
    warnings, skipped = found.pop("warnings"), found.pop("skipped")
    for key, value in found.items():
        if isinstance(value, dict):
            tell(f"{key}:")
            for name, inner in value.items():
                tell(f"  {name}: {inner}")
        else:
            tell(f"{key}: {value}")
    tell(f"passed over: {len(skipped)}" + (f", of which {_SHOWN} are shown" if len(skipped) > _SHOWN else ""))
    for name, reason in skipped[:_SHOWN]:
        tell(f"  {name}: {reason}")
    for text in warnings:
        tell(f"warning: {text}")
