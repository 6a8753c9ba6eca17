"""A handful of each kind of fault, in seconds: python -m tests.faults.short"""

import argparse
import errno
import random
from pathlib import Path

from tests.faults._layer import Fault
from tests.faults._runs import scenarios
from tests.faults._trials import Campaign, main
from tests.faults.errors import ERRORS, failed_at
from tests.faults.flips import in_finished, in_unfinished, newest_damaged, read_all
from tests.faults.kills import chosen, killed_at, undisturbed
from tests.faults.processes import two_at_once
from tests.faults.saves import disturbed
from tests.faults.saves import undisturbed as undisturbed_save


def trials(campaign: Campaign, work: Path, given: argparse.Namespace) -> None:
    draw, made = random.Random(given.seed), scenarios(work)
    ending, expected, _ = undisturbed(made["resume"], work)
    points = chosen(ending.operations, reads=False, more=0, draw=draw)
    written = [number for number, kind in points.items() if kind.startswith("write")]
    for how in ("before", "after", "torn"):
        number = draw.choice(written if how == "torn" else sorted(points))
        key = f"{number} {how} {points[number]}"
        campaign.make("kills", key, killed_at, made["resume"], work, Fault(number, how), expected)
    for error in (errno.EIO, errno.ENOSPC):
        number = draw.choice(written)
        fault = Fault(number, ERRORS[error], error)
        campaign.make("errors", f"{number} {error}", failed_at, made["resume"], work, fault, expected)
    campaign.make("processes", "two at once", two_at_once, made["resume"], work, 0.0, expected)
    whole, cut = work / "whole", work / "cut"
    where = ("control", "tensors.safetensors", "flipped in the middle")
    campaign.make("newest checkpoint", "newest", newest_damaged, cut, work, where, expected)
    finished, unfinished = read_all(whole / "run"), read_all(cut / "run")
    campaign.make("unfinished", "unfinished", in_unfinished, cut, work, (unfinished, expected), str(given.seed))
    for number in range(8):
        seed = f"{given.seed} {number}"
        campaign.make("finished", seed, in_finished, whole, work, finished, seed)
    before, after, saving = undisturbed_save(work)
    last = len(saving.operations)  # removes the file of the old save
    for fault in (Fault(3, "after"), Fault(last, "error from then on", errno.EROFS)):
        key = f"save {fault.number}"
        campaign.make("saves", key, disturbed, work, before, after, fault, False)


if __name__ == "__main__":
    main("tests.faults.short", __doc__, trials)
