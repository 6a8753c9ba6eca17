"""Flip bits in the files of a run, and damage its newest checkpoint; nothing wrong may be taken for right.

    python -m tests.faults.flips --log build/flips.jsonl --json results/faults/flips.json

A finished run is read by everything that reads runs: reports, members, ensembles, predictions, a resume. An unfinished
one is read, too, and resumed. A flip is *told* (an error that names the file), *passed over* (a resume takes the
checkpoint before, with a note) or *harmless*: all that is read, and the end of the resume, have the same bits.
"""

import argparse
import hashlib
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

from graftwork.errors import GraftworkError
from graftwork.reports import read_run
from graftwork.runs import RunFolder, load_member
from graftwork.session import Session, StoredPredictions, load_ensemble
from tests.faults._layer import run
from tests.faults._runs import scenarios, wrong_in
from tests.faults._trials import Campaign, Trial, main
from tests.faults.kills import undisturbed

FLIPS = 600
"""In each of the two runs."""


def read_all(path: Path) -> str:
    """Hash of everything that the readers of a run folder make of it."""
    digest, data, folder = hashlib.sha256(), read_run(path), RunFolder.open(path)
    for part in (data.result, data.provenance, data.config, data.rounds, data.births, data.scores, data.control):
        digest.update(repr(part).encode())
    for name, member in data.members.items():
        digest.update(repr((name, astuple(member))).encode())
        network, transform, _ = load_member(folder, name)
        digest.update(repr((transform, network.genome)).encode())
        for key, tensor in network.state_dict().items():
            digest.update(key.encode() + tensor.numpy().tobytes())
    for split, predictions in data.predictions.items():
        digest.update(repr((split, sorted(predictions.logits))).encode())
        for array in (*predictions.logits.values(), predictions.labels, predictions.index):
            digest.update(array.tobytes())
    if data.result is not None:
        names = [entry["id"] for entry in data.result["survivors"]]
        digest.update(StoredPredictions.load(folder, "blend", names).outputs.numpy().tobytes())
        digest.update(repr(folder.read_json("predictions/openings.json")).encode())
        for name in folder.names("ensembles", ".json"):
            ensemble, _, _ = load_ensemble(folder, name)
            digest.update(repr((name, ensemble.combiner.state_dict())).encode())
        digest.update(repr(Session.resume(path).run()).encode())
    return digest.hexdigest()


def flip(path: Path, place: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)


def reading(path: Path, damaged: str, expected: str) -> tuple[str, list[str]]:
    """What readers say of a run with a damaged file: the outcome, and what is wrong with it."""
    try:
        found = read_all(path)
    except GraftworkError as error:
        return "told", [] if named(damaged, str(error)) else [f"the error does not name the file: {error}"]
    except Exception as error:
        return "crashed", [f"{type(error).__name__}: {error}"]
    return "harmless", [] if found == expected else ["accepted: something else was read"]


def named(damaged: str, text: str) -> bool:
    """Whether an error names the damaged file, or the values that differ from those that the run was begun with."""
    return Path(damaged).name in text or "was begun with other values" in text


def flipped(start: Path, work: Path, draw: random.Random) -> tuple[Path, str]:
    """A copy of a run in which one bit of one file is flipped, and which one."""
    folder = work / "trial"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start, folder)
    files = sorted(path for path in (folder / "run").rglob("*") if path.is_file() and path.stat().st_size)
    path = draw.choice(files)
    place = draw.randrange(8 * path.stat().st_size)
    flip(path, place)
    return folder, f"{path.relative_to(folder / 'run')} bit {place}"


def resumed(folder: Path, expected: dict[str, str], damaged: str) -> tuple[str, list[str]]:
    """What a resume makes of a damaged run: the outcome, and what is wrong with it."""
    ending = run(["search", "--no-report", "--resume", folder / "run"], folder)  # notes are told
    if ending.code == 0:
        return "passed over" if "passed over" in ending.text else "harmless", wrong_in(folder, expected)
    wrong = [] if ending.code in (1, 2) and not ending.crashed else [f"it ended with {ending.code}: {ending.text}"]
    return "told", wrong if named(damaged, ending.text) else [*wrong, f"the file is not named: {ending.text}"]


def in_finished(start: Path, work: Path, expected: str, seed: str) -> Trial:
    folder, what = flipped(start, work, random.Random(seed))
    outcome, wrong = reading(folder / "run", what.split()[0], expected)
    return {"flipped": what, "outcome": outcome, "wrong": wrong}


def in_unfinished(start: Path, work: Path, expected: tuple[str, dict[str, str]], seed: str) -> Trial:
    folder, what = flipped(start, work, random.Random(seed))
    name = what.split()[0]
    read, wrong = reading(folder / "run", name, expected[0])
    outcome, more = resumed(folder, expected[1], name)
    return {"flipped": what, "outcome": outcome, "read": read, "wrong": wrong + more}


# The newest checkpoint -----------------------------------------------------------------------------------------------

FILES = ("state.json", "tensors.safetensors", "records.jsonl", "manifest.json")


def _swap(path: Path) -> None:
    """The file of the checkpoint before in its place."""
    before = sorted(path.parent.parent.glob(f"{path.parent.name.partition('-')[0]}-*"))[-2]
    shutil.copyfile(before / path.name, path)
    if path.name in ("records.jsonl", "manifest.json"):  # may be the same in both, or fit to one another
        path.write_bytes(path.read_bytes() + b"\n{}\n")


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped at the start": lambda path: flip(path, 3),
    "flipped in the middle": lambda path: flip(path, 4 * path.stat().st_size),
    "flipped at the end": lambda path: flip(path, 8 * path.stat().st_size - 8),
    "cut by three bytes": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "cut by half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n{}\n"),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "of the one before": _swap,
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: _replace(path, Path.mkdir),
    "a pipe": lambda path: _replace(path, os.mkfifo),
    "a link": lambda path: _replace(path, lambda link: link.symlink_to("/dev/zero")),
    "a link to nothing": lambda path: _replace(path, lambda link: link.symlink_to("nothing")),
}


def newest_damaged(start: Path, work: Path, where: tuple[str, str, str], expected: dict[str, str]) -> Trial:
    """Damage one file of the newest checkpoint of a stage in one way, and resume."""
    stage, name, damage = where
    folder = work / "trial"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start, folder)
    newest = max((folder / "run" / "checkpoints").glob(f"{stage}-*"))
    DAMAGES[damage](newest / name)
    outcome, wrong = resumed(folder, expected, name)
    if outcome != "passed over":
        wrong.append(f"expected that it is passed over, got: {outcome}")
    return {"outcome": outcome, "wrong": wrong}


def trials(campaign: Campaign, work: Path, given: argparse.Namespace) -> None:
    made = scenarios(work)
    whole, cut = made["report"].start, made["resume"].start
    assert whole is not None
    assert cut is not None
    _, end, _ = undisturbed(made["resume"], work)
    ways = [(stage, name, damage) for stage in ("search", "control") for name in FILES for damage in DAMAGES]
    for stage, name, damage in ways if given.points is None else random.Random(given.seed).sample(ways, given.points):
        key = f"{stage} {name} {damage}"
        campaign.make("newest checkpoint", key, newest_damaged, cut, work, (stage, name, damage), end)
    finished, unfinished = (read_all(_copy(start, work)) for start in (whole, cut))
    for number in range(given.points or FLIPS):
        seed = f"{given.seed} {number}"
        campaign.make("finished", f"finished {seed}", in_finished, whole, work, finished, seed)
        campaign.make("unfinished", f"unfinished {seed}", in_unfinished, cut, work, (unfinished, end), seed)


def _copy(start: Path, work: Path) -> Path:
    shutil.rmtree(work / "trial", ignore_errors=True)
    shutil.copytree(start, work / "trial")
    return work / "trial" / "run"


if __name__ == "__main__":
    main("tests.faults.flips", __doc__, trials)
