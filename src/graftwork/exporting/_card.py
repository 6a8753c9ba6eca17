"""The model card of a network or an ensemble, written from its run."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graftwork._files import damaged
from graftwork._version import __version__
from graftwork.errors import RunError
from graftwork.exporting._source import IMAGE_MODES, template
from graftwork.metrics import class_scores, expected_calibration_error, negative_log_likelihood
from graftwork.runs import RunFolder


def render_card(run: RunFolder, name: str, *, ensemble: bool, licence: str) -> str:
    """The text of ``README.md``: data, splits, metrics, classes, cost, limits, how to load it.

    Args:
        run: A finished run.
        name: Id of a member, or method of an ensemble.
        ensemble: Whether it is an ensemble.
        licence: Identifier of a licence, as the hub knows it.

    Raises:
        RunError: If the run has not scored it, or is damaged.
    """
    result, provenance = run.result(), run.read_json("provenance.json")
    row = _row(run, result, name, ensemble=ensemble)
    tensors = run.load_tensors("predictions/test.safetensors")
    with damaged(f"{run.path}: what a model card needs"):
        logits = tensors[f"ensemble/{name}" if ensemble else name].double()
        said, labels = logits.softmax(1).numpy(), tensors["labels"].numpy()
        data = provenance["data"]
        latency = result["latency"]["ensembles" if ensemble else "networks"].get(name)
        processor = provenance.get("machine", {}).get("processor")
        shape = (data["channels"], data["height"], data["width"])
        return template("card.md.jinja").render(
            front=_front(name, data, row, licence),
            name=escaped(name if ensemble else f"Network {name}"),
            kind=f"an ensemble ({escaped(name)}) of {row['num_members']} networks" if ensemble else "one network",
            version=__version__,
            shape=shape,
            readable=shape[0] in IMAGE_MODES,
            data={**data, "name": escaped(data["name"])},
            row=row,
            majority=result["majority"],
            openings=len(result["test_openings"]),
            calibration={
                "ece": expected_calibration_error(said, labels),
                "nll": negative_log_likelihood(said, labels),
            },
            classes=_classes(said, labels, data["class_names"]),
            latency=f", {latency['one']:.3g} ms on {escaped(result['latency']['device'])}" if latency else "",
            petaflops=(result["training_flops"] + result["scoring_flops"]) / 1e15,
            machine=f" on {escaped(processor)}" if processor else "",
            limits=_limits(result, data, len(labels)),
            **{key: result[key] for key in ("seconds", "generations", "steps", "seed")},
            **{key: escaped(result[key]) for key in ("recipe", "selection")},
        )


def escaped(text: object) -> str:
    """A text from a run folder, such that Markdown shows it as it is."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]()#!|<>~$&])", r"\\\1", line)


def _row(run: RunFolder, result: Mapping[str, Any], name: str, *, ensemble: bool) -> Mapping[str, Any]:
    rows = {row["method"]: row for row in result["ensemble"] or ()} if ensemble else _networks(result)
    if name not in rows:
        raise RunError(
            f"{run.path}: expected one that result.json scores ({', '.join(rows) or 'none'}), got {name!r}; a model "
            "card needs its numbers: export it to source instead"
        )
    return rows[name]


def _networks(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    control = [result["seed_network"]] if result["seed_network"] else []
    return {row["id"]: row for row in (*result["survivors"], *control)}


def _front(name: str, data: Mapping[str, Any], row: Mapping[str, Any], licence: str) -> str:
    """What the hub reads, in YAML, of which JSON values are a part."""
    accuracy = {"type": "accuracy", "value": row["test_accuracy"], "name": "accuracy"}
    source = {"type": data["name"], "name": data["name"], "split": "test"}
    task = {"type": "image-classification"}
    entries = {
        "license": licence,
        "library_name": "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "graftwork", "pytorch_model_hub_mixin"],
        "metrics": ["accuracy"],
        "model-index": [{"name": name, "results": [{"task": task, "dataset": source, "metrics": [accuracy]}]}],
    }
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in entries.items())


def _classes(said: Any, labels: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    scores = class_scores(np.argmax(said, axis=1), labels, len(names))
    columns = (map(escaped, names), scores.precision.tolist(), scores.recall.tolist(), scores.support.tolist())
    keys = ("name", "precision", "recall", "support")
    return [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]


def _limits(result: Mapping[str, Any], data: Mapping[str, Any], tested: int) -> list[str]:
    found = [f"{tested:,} images were tested once; the intervals say how far chance alone moves such numbers."]
    found += [f"{escaped(text)}." for text in data["warnings"]]
    pairs = [f"{escaped(one)} and {escaped(other)}" for one, other in result["mirror_pairs"]]
    return found + ([f"Classes that flip into each other in a mirror: {'; '.join(pairs)}."] if pairs else [])
