"""Kill `save_model` and let it fail, at every file operation; a model is always there, the old one or the new one.

    python -m tests.faults.saves --log build/saves.jsonl --json results/faults/saves.json

A folder holds a grown model; one that has grown further is saved over it, or loaded from it. Each operation that
changes something is killed before, after and, for writes, in the middle; each one, those that read too, fails once with
each of four errors. Afterwards the folder is loaded, the save is made again, and its files have to be those of a save
that nothing has disturbed.
"""

import argparse
import errno
import shutil
import sys
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

import graftwork as gw
from graftwork.errors import GraftworkError
from tests.faults._layer import Ending, Fault, run
from tests.faults._trials import Campaign, Trial, main
from tests.faults.errors import ERRORS
from tests.faults.kills import HOWS, READS

X = torch.zeros(2, 3, 8, 8)


def built() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))


@cache
def grown(extra: int) -> nn.Module:
    model = built()
    gw.widen(model, "0", extra=extra, example_input=X, generator=torch.Generator().manual_seed(1))
    return model


def told(work: Path, load: bool) -> None:
    """Save or load; the one line of an error is printed, as a user's program would."""
    try:
        gw.load_model(built, work / "save") if load else gw.save_model(grown(6), work / "save")
    except GraftworkError as error:
        print(f"error: {error}")
        sys.exit(1)


def files(work: Path) -> dict[str, bytes]:
    """Content of each file; of a folder that was left over, an empty one."""
    found = sorted((work / "save").rglob("*"))
    return {str(path.relative_to(work / "save")): path.read_bytes() if path.is_file() else b"" for path in found}


def disturbed(work: Path, before: dict[str, bytes], after: dict[str, bytes], fault: Fault, load: bool) -> Trial:
    """Disturb one operation of a save or a load; then load, save again, and compare."""
    _put(work, before)
    first = _run(work, fault, load)
    allowed = (-9,) if fault.how in HOWS else (0, 1)
    wrong = [] if first.code in allowed and not first.crashed else [f"it ended with {first.code}: {first.text}"]
    wrong += [] if first.code <= 0 or first.text.count("\n") == 1 else [f"not one line: {first.text}"]
    found = files(work)
    whole = [set(saved.items()) <= set(found.items()) for saved in (before, after)]
    wrong += [] if any(whole) else [f"neither save is there: {sorted(found)}"]
    state = gw.load_model(built, work / "save").state_dict()
    wrong += [] if state["0.weight"].shape[0] in (12, 14) else ["another model was loaded"]
    wrong += [] if _run(work, Fault(), load=False).code == 0 else ["saving again failed"]
    wrong += [] if files(work) == after else [f"saving again left {sorted(files(work))}"]
    return {"outcome": "old" if whole[0] else "new", "wrong": wrong}


def _put(work: Path, held: dict[str, bytes]) -> None:
    folder = work / "save"
    shutil.rmtree(folder)
    folder.mkdir()
    for name, data in held.items():
        (folder / name).write_bytes(data)


def _run(work: Path, fault: Fault, load: bool) -> Ending:
    return run(partial(told, work, load), work / "save", fault)


def undisturbed(work: Path) -> tuple[dict[str, bytes], dict[str, bytes], Ending]:
    """The files of the old and of the new save, and what a save does."""
    (work / "save").mkdir()
    gw.save_model(grown(4), work / "save")
    grown(6)  # made once, before the forks
    before = files(work)
    ending = _run(work, Fault(), load=False)
    assert ending.code == 0, ending.text
    return before, files(work), ending


def trials(campaign: Campaign, work: Path, given: argparse.Namespace) -> None:
    before, after, saving = undisturbed(work)
    for load in (False, True):
        word, ending = ("load", _run(work, Fault(), load)) if load else ("save", saving)
        print(f"{word}: {len(ending.operations)} operations", flush=True)
        for number, (call, name) in enumerate(ending.operations[: given.points], 1):
            hows = [Fault(number, how) for how in HOWS if call not in READS and (how != "torn" or call == "write")]
            for fault in [*hows, *(Fault(number, how, error) for error, how in ERRORS.items())]:
                what = errno.errorcode[fault.error] if fault.error else fault.how
                key = f"{word} {number} {what} {call} {Path(name).name}"
                campaign.make(f"{word}, {what}", key, disturbed, work, before, after, fault, load)


if __name__ == "__main__":
    main("tests.faults.saves", __doc__, trials)
