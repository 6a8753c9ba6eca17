"""Trials that are logged as they come, so that a campaign can be stopped and continued, and their sum."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graftwork.runs import machine, write_json
from tests.faults._layer import compiler, layer_folder, stand_on_layer, warm_up

Trial = dict[str, Any]


class Campaign:
    """Trials of one kind of fault.

    Args:
        name: What it is called.
        log: File to append each trial to; those that are in it are not made again.
    """

    def __init__(self, name: str, log: Path | None) -> None:
        self.name = name
        self._log = log
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        lines = log.read_text().splitlines() if log is not None and log.exists() else []
        self.trials: dict[str, Trial] = {trial["key"]: trial for trial in map(json.loads, lines)}
        self._commit = commit()

    def make(self, group: str, key: str, trial: Callable[..., Trial], *arguments: Any) -> None:
        """Make a trial, unless it has been made.

        Args:
            group: Kind of trials that it belongs to.
            key: Its name, which no other trial has.
            trial: Function that makes it; what it returns has its ``outcome``, and all that is ``wrong``.
            *arguments: Of that function.
        """
        if key in self.trials:
            return
        found = {"key": key, "group": group, "commit": self._commit, **trial(*arguments)}
        self.trials[key] = found
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(json.dumps(found) + "\n")
        if found["wrong"]:
            print(f"{key}: {found['wrong']}", flush=True)

    def summary(self) -> dict[str, Any]:
        """Number of trials by group and outcome, and every one that went wrong."""
        groups: dict[str, Counter[str]] = {}
        for trial in self.trials.values():
            counter = groups.setdefault(trial["group"], Counter())
            counter["trials"] += 1
            counter["wrong" if trial["wrong"] else trial["outcome"]] += 1
        wrong = [trial for trial in self.trials.values() if trial["wrong"]]
        total = sum((Counter(group) for group in groups.values()), Counter())
        return {
            "trials": len(self.trials),
            "wrong": len(wrong),
            "kills_at_moments": sum(trial.get("kills", 0) for trial in self.trials.values()),
            "outcomes": dict(total),
            "commits": dict(Counter(trial["commit"] for trial in self.trials.values())),
            "groups": {name: dict(counter) for name, counter in sorted(groups.items())},
            "wrong_trials": wrong,
        }


def main(module: str, document: str | None, trials: Callable[[Campaign, Path, argparse.Namespace], None]) -> None:
    """Run a campaign as a program.

    Args:
        module: Its name.
        document: What it does.
        trials: Function that makes all trials, given a folder to work in.
    """
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of every random choice")
    parser.add_argument("--points", type=int, help="at most so many trials of each kind; as many as the text says")
    parser.add_argument("--log", type=Path, help="file of trials, to stop and continue")
    parser.add_argument("--json", type=Path, help="file of the sum")
    given = parser.parse_args()
    if compiler() is None:
        sys.exit("this needs Linux and a C compiler")
    stand_on_layer()
    warm_up()
    campaign, complete = Campaign(module, given.log), False
    try:
        with tempfile.TemporaryDirectory(prefix="graftwork-faults-") as work:
            trials(campaign, Path(work), given)
        complete = True
    except KeyboardInterrupt:  # what there is so far is told; with a log it is gone on from
        pass
    finally:
        shutil.rmtree(layer_folder())
    found = {"complete": complete, **campaign.summary()}
    words = [f"--seed {given.seed}", *([f"--points {given.points}"] if given.points else [])]
    about = {"command": f"python -m {module} {' '.join(words)}", "machine": machine()}
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.json, {**about, **found})
    print(json.dumps({name: found[name] for name in ("complete", "trials", "wrong", "outcomes")}))
    sys.exit(found["wrong"] != 0 or not complete)


def commit() -> str:
    """Commit of the code that runs, marked where it has changes."""
    environment = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "LD_PRELOAD")}
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stdout.strip()
