"""A tiny run with everything in it, what its commands are, and what has to be equal at the end."""

import functools
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.errors import GraftworkError
from graftwork.runs import RunFolder
from tests.cases.commands import RESUME, tiny_search
from tests.faults._layer import Fault, layer_folder, run

CLOCKS = {
    "records.jsonl": ("seconds",),
    "result.json": ("seconds", "test_opened_at", "test_openings", "latency"),
    "provenance.json": ("started_at",),
    "predictions/openings.json": ("openings",),
}
"""What differs between two runs of the same seed: clocks, and how often the test split was opened."""


@dataclass(frozen=True)
class Scenario:
    """A command that is disturbed, and the one that mends what is left.

    Args:
        name: What it is called.
        start: Folder whose content is there before; ``None``: nothing.
        command: Words of the command, from the folder that holds ``run``.
        again: Words of the command that goes on from what is there.
    """

    name: str
    start: Path | None
    command: Callable[[Path], list[object]]
    again: Callable[[Path], list[object]]

    @contextmanager
    def folder(self, work: Path) -> Iterator[Path]:
        """The folder of one trial."""
        folder = work / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        if self.start is None:
            folder.mkdir(parents=True)
        else:
            shutil.copytree(self.start, folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def search(folder: Path) -> list[object]:
    """A search with a control and ensembles, that stores a checkpoint after each update."""
    config = layer_folder() / "config.toml"
    config.write_text(
        "num_calibration = 20\nmax_memory = '4GB'\n"
    )  # scoring counts, and the control spends what all of the search did
    words = tiny_search(layer_folder(), "--control", "--config", config, "--checkpoint-every", 1e-6)
    numbers = {"--initial-steps": 3, "--steps-per-generation": 3, "--validation": 20, "--blend": 20, "--test": 50}
    return [*words, *(word for option in numbers.items() for word in option), "--out", folder / "run"]


def resume(folder: Path) -> list[object]:
    """Go on with the run; begin it where it is not there."""
    return [*RESUME, folder / "run"] if (folder / "run" / "config.toml").is_file() else search(folder)


def export(folder: Path) -> list[object]:
    return ["export", folder / "run", "--to", "source", "--overwrite"]


@functools.cache
def scenarios(work: Path) -> dict[str, Scenario]:
    """Make what the commands start from; every one of them by its name.

    Args:
        work: Folder for everything; trials lie in it, too.
    """
    begin = Scenario("search", None, search, resume)
    whole, cut = work / "whole", work / "cut"
    shutil.rmtree(whole, ignore_errors=True)
    with begin.folder(work) as folder:
        ending = run(search(folder), folder)
        assert ending.code == 0, ending.text
        shutil.copytree(folder, whole)
    last = [n for n, (call, path) in enumerate(ending.operations, 1) if call == "rename" and "/control-" in path]
    shutil.rmtree(cut, ignore_errors=True)
    with begin.folder(work) as folder:
        run(search(folder), folder, Fault(last[-2], "after"))
        shutil.copytree(folder, cut)
    return {
        "search": begin,
        "resume": Scenario("resume", cut, resume, resume),
        "ensemble": Scenario("ensemble", whole, ensemble, ensemble),
        "report": Scenario("report", whole, report, report),
        "export": Scenario("export", whole, export, export),
    }


def ensemble(folder: Path) -> list[object]:
    return ["ensemble", folder / "run", "--method", "mean", "--method", "greedy"]


def report(folder: Path) -> list[object]:
    return ["report", folder / "run"]


def kind_of(operation: tuple[str, str]) -> str:
    """Call and kind of file; numbers of processes and steps, names of members, figures and methods are left out."""
    call, path = operation
    for pattern, word in (
        (r"\.(\d+)\.tmp", ".tmp"),
        (r"-\d{8}", "-STEP"),
        (r"(members|ensembles|figures)/(\.?)[\w-]+\.(json|safetensors|svg|png)", r"\1/\2NAME.\3"),
        (r"export/[\w-]+", "export/NAME"),
        (r"\.export-\w+", ".export-NAME"),
    ):
        path = re.sub(pattern, word, path)
    return f"{call} {path}"


def outcome(run_folder: Path) -> dict[str, str]:
    """Hash of each file of a run by its name, without what clocks say; checkpoints, lock and manifest are not in it."""
    found = {}
    for path in sorted(path for path in run_folder.rglob("*") if path.is_file()):
        name = path.relative_to(run_folder).as_posix()
        if name.startswith("checkpoints/") or name in ("lock", "manifest.json"):
            continue
        data = path.read_bytes()
        if name in CLOCKS:
            lines = data.splitlines() if name.endswith("jsonl") else [data]
            data = json.dumps([_without(json.loads(line), CLOCKS[name]) for line in lines]).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def _without(data: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in names}


def wrong_in(folder: Path, expected: dict[str, str]) -> list[str]:
    """What is wrong after everything: files that differ, are missing, are left over or do not fit the manifest."""
    path = folder / "run"
    found = outcome(path) if path.is_dir() else {}
    wrong = [f"{name} differs" for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
    wrong += [f"{one.name} is left" for one in folder.iterdir() if one.name != "run"]
    wrong += [f"{one.relative_to(path)} is left" for one in path.rglob(".*")]
    for stage in ("search", "control"):
        if (number := len(list(path.glob(f"checkpoints/{stage}-*")))) > 2:
            wrong.append(f"{number} checkpoints of the {stage}")
    opened = RunFolder(path)
    for name in found:
        if name.startswith(("members/", "predictions/", "ensembles/")) or name in ("result.json", "provenance.json"):
            try:
                opened.verify(name)
            except (GraftworkError, OSError) as error:
                wrong.append(f"manifest: {error}")
    return wrong
