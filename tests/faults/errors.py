"""Let file operations of a run fail; it has to end in one line, and going on with the same bits.

    python -m tests.faults.errors --log build/errors.jsonl --json results/faults/errors.json

Operations, those that read too, are grouped by call and kind of file. One of each group, chosen by the seed, fails once
with each of four errors: EIO and EACCES by itself; ENOSPC and EROFS with everything that writes after it, too. And a
search, a report and an export on small file systems that are really full, where this process may mount them.
"""

import argparse
import errno
import os
import random
import re
import subprocess
from pathlib import Path

from tests.faults._layer import Ending, Fault, How, run
from tests.faults._runs import Scenario, scenarios, wrong_in
from tests.faults._trials import Campaign, Trial, main
from tests.faults.kills import chosen, undisturbed

ERRORS: dict[int, How] = {
    errno.EIO: "error",
    errno.EACCES: "error",
    errno.ENOSPC: "error from then on",
    errno.EROFS: "error from then on",
}
FULL = 16
"""Sizes of the file system that fills up."""


def told_in_one_line(ending: Ending) -> list[str]:
    """What is wrong with the words and the code of a command that may have failed."""
    errors = [line for line in ending.text.splitlines() if line.startswith("error: ")]
    if ending.code == 0:
        return ["it ended well, but told an error"] if errors or ending.crashed else []
    wrong = [] if ending.code in (1, 2) else [f"it ended with {ending.code}"]
    if ending.crashed or len(errors) != 1 or len(ending.text.splitlines()) != 1:
        wrong.append(f"expected one line, got {ending.text}")
    return wrong


def failed_at(scenario: Scenario, work: Path, fault: Fault, expected: dict[str, str]) -> Trial:
    """Let an operation of a command fail, and go on."""
    with scenario.folder(work) as folder:
        first = run(scenario.command(folder), folder, fault)
        wrong = told_in_one_line(first)
        if first.code == 0 and not wrong_in(folder, expected):
            return {"outcome": "borne", "wrong": wrong}
        second = run(scenario.again(folder), folder)
        wrong += [] if second.code == 0 else [f"going on ended with {second.code}: {second.text}"]
        said = re.sub(r"\s+", " ", first.text).replace(str(folder), "")
        return {"outcome": f"code {first.code}", "said": said, "wrong": wrong + wrong_in(folder, expected)}


def trials(campaign: Campaign, work: Path, given: argparse.Namespace) -> None:
    draw, made, seen = random.Random(given.seed), scenarios(work), set[str]()
    points: list[tuple[Scenario, dict[str, str], int, str]] = []
    for scenario in made.values():
        ending, expected, _ = undisturbed(scenario, work)
        new = chosen(ending.operations, reads=True, more=0, draw=draw, seen=seen)
        seen |= set(new.values())
        print(f"{scenario.name}: {len(ending.operations)} operations, {len(new)} chosen", flush=True)
        points += [(scenario, expected, number, kind) for number, kind in new.items()]
    for name in ("search", "report", "export"):
        on_a_full_disk(campaign, work, made[name], given)
    for error, how in ERRORS.items():
        for scenario, expected, number, kind in draw.sample(points, min(given.points or len(points), len(points))):
            word, fault = errno.errorcode[error], Fault(number, how, error)
            key = f"{scenario.name} {number} {word} {kind}"
            campaign.make(f"{scenario.name}, {word}", key, failed_at, scenario, work, fault, expected)


def on_a_full_disk(campaign: Campaign, work: Path, scenario: Scenario, given: argparse.Namespace) -> None:
    """Run a command on file systems of many sizes, each too small; then grow them, and go on."""
    _, expected, _ = undisturbed(scenario, work)
    disk = work / "disk"
    disk.mkdir(exist_ok=True)
    if not _mounted(disk, "size=64m"):
        print("no file system can be mounted here: a full one is not tried", flush=True)
        return
    try:
        with scenario.folder(disk) as folder:
            before = _used(disk)
            assert run(scenario.command(folder), folder).code == 0
            needed = _used(disk)
    finally:
        _mounted(disk, None)
    sizes = given.points or FULL
    for number in range(sizes):
        pages = before + (needed - before) * number // sizes
        key = f"{scenario.name} on {pages} pages"
        campaign.make(f"{scenario.name}, full disk", key, _full, scenario, disk, pages, expected)


def _full(scenario: Scenario, disk: Path, pages: int, expected: dict[str, str]) -> Trial:
    try:
        assert _mounted(disk, "size=64m")
        with scenario.folder(disk) as folder:
            words = scenario.command(folder)
            assert _mounted(disk, f"remount,nr_blocks={max(pages, 1)}")
            first = run(words, folder)
            assert _mounted(disk, "remount,size=64m")
            second = run(scenario.again(folder), folder)
            wrong = told_in_one_line(first)
            wrong += [] if second.code == 0 else [f"going on ended with {second.code}: {second.text}"]
            return {"outcome": f"code {first.code}", "said": first.text, "wrong": wrong + wrong_in(folder, expected)}
    finally:
        _mounted(disk, None)


def _mounted(disk: Path, options: str | None) -> bool:
    """Mount (``None``: unmount) a file system in memory; tells whether that was possible."""
    words = ["umount", disk] if options is None else ["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _used(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_blocks - found.f_bfree


if __name__ == "__main__":
    main("tests.faults.errors", __doc__, trials)
