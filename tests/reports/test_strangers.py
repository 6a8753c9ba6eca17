"""A run folder that comes from somebody else can be read, and can do nothing more."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from graftwork.errors import RunError
from graftwork.reports import build_report
from tests.reports.synthetic import make_run_folder

MARKUP = 'x"><img src=x onerror=alert(1)>'
DEEP = "[" * 200_000 + "]" * 200_000


def everywhere(old: str, new: Any) -> Callable[[Path], None]:
    """Replace a JSON string in every text of the run."""

    def change(run: Path) -> None:
        texts = [run / "result.json", run / "records.jsonl", run / "provenance.json", *(run / "members").glob("*.json")]
        changed = 0
        for path in texts:
            text = path.read_text()
            changed += text.count(json.dumps(old))
            path.write_text(text.replace(json.dumps(old), json.dumps(new)))
        assert changed

    return change


def best(run: Path) -> str:
    return str(json.loads((run / "result.json").read_text())["best"]["id"])


def ids(new: Any) -> Callable[[Path], None]:
    return lambda run: everywhere(best(run), new)(run)


def written(name: str, text: str) -> Callable[[Path], None]:
    return lambda run: (run / name).write_text(text) and None


def linked(name: str) -> Callable[[Path], None]:
    """Put a link to the victim in the place of a file or folder."""

    def change(run: Path) -> None:
        path = run / name
        if path.exists():
            path.rename(run.parent / "moved")
        path.symlink_to(run.parent / "victim", target_is_directory=True)

    return change


def entry(**changes: Any) -> Callable[[Path], None]:
    """Change what the outcome says of the best member."""

    def change(run: Path) -> None:
        data = json.loads((run / "result.json").read_text())
        data["best"].update(changes)
        (run / "result.json").write_text(json.dumps(data))

    return change


def logits(make: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        path = run / "predictions" / "test.safetensors"
        save_file(make(load_file(path)), path)

    return change


ATTACKS: dict[str, Callable[[Path], None]] = {
    **{
        f"id {name!r:.20}": ids(name)
        for name in (MARKUP, "x/../../../victim/pwn", "/etc/x", "..", "", "a\0b", "\x1b[2J", 7)
    },
    **{f"id {name}": ids(value) for name, value in {"list": ["a"], "null": None, "long": "a" * 10**6}.items()},
    **{
        f"a link for {name}": linked(name)
        for name in ("figures", "members", "predictions", "result.json", "report.html")
    },
    "a link for a member": linked("members/m9.json"),
    "a link for the config": linked("config.toml"),
    **{f"deep {name}": written(name, DEEP) for name in ("result.json", "provenance.json", "records.jsonl")},
    "deep records": written("records.jsonl", DEEP + "\n"),
    "a record of another kind": written("records.jsonl", '[1]\n{"type": "member"}\n'),
    "a record without an id": written("records.jsonl", '{"type": "member"}\n{}\n'),
    "a number of a million digits": written("result.json", "1" * 10**6),
    "no UTF-8": lambda run: (run / "result.json").write_bytes(b"\xff\xfe") and None,
    "empty outcome": written("result.json", "{}"),
    "outcome of numbers": written("result.json", '{"best": 5, "survivors": 7}'),
    "accuracy of text": entry(validation_accuracy=MARKUP),
    "a pipe": lambda run: (run / "provenance.json").unlink() or os.mkfifo(run / "provenance.json"),
    "labels out of range": logits(lambda t: {**t, "labels": t["labels"] + 10**6}),
    "logits of another shape": logits(lambda t: {**t, "m0": np.zeros(3, np.float32)}),
    "no labels": logits(lambda t: {name: array for name, array in t.items() if name != "labels"}),
    "a tensor's name": logits(lambda t: {**t, MARKUP: t["labels"][:, None] + np.zeros((1, 10), np.float32)}),
    "a header of 2⁶⁰ bytes": lambda run: (
        (run / "predictions/test.safetensors").write_bytes(b"\xff" * 7 + b"\x10") and None
    ),
    "genome of markup": everywhere("relu", MARKUP),
    "transform of markup": everywhere("seed", MARKUP),
    "recipe of markup": entry(recipe=MARKUP),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run_folder(tmp_path_factory.mktemp("strangers"), num_generations=1, ensemble=True)


IN_SHORT = tuple(ATTACKS)[::4]
"""Tried at every run of the tests; `tests.faults.attack` tries more of them on every command."""


@pytest.mark.skipif(os.name == "nt", reason="makes links and pipes")
@pytest.mark.parametrize(
    "attack", [name if name in IN_SHORT else pytest.param(name, marks=pytest.mark.slow) for name in ATTACKS]
)
def test_an_attack_is_refused_or_shown_as_plain_text(attack: str, given: Path, tmp_path: Path) -> None:
    run = tmp_path / "given" / "run"
    shutil.copytree(given, run)
    victim = run.parent / "victim"
    victim.mkdir()
    (victim / "kept").write_text("mine")
    before = sorted(path.name for path in run.parent.rglob("*") if run not in path.parents)
    ATTACKS[attack](run)
    began = time.process_time()
    try:
        build_report(run)
        said = ""
    except RunError as error:
        said = str(error)
    assert "\x1b" not in said
    assert len(said) < 1000
    for path in (*run.glob("figures/*.svg"), *run.glob("report.html")):
        assert path.is_symlink() or "<img src=x" not in path.read_text()
    assert time.process_time() - began < 60  # a second or two where nothing hangs
    assert (victim / "kept").read_text() == "mine"
    assert [path.name for path in victim.iterdir()] == ["kept"]
    assert set(before) <= {path.name for path in run.parent.rglob("*")}
