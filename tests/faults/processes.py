"""Several processes and signals: two at one folder, a parent that is killed, SIGTERM, and kills with two workers.

    python -m tests.faults.processes --log build/processes.jsonl --json results/faults/processes.json

Two resumes of one unfinished run at once, and two searches that begin in one new folder; the process that started two
workers is killed; SIGTERM at any moment of a search; SIGKILL of all processes of a search by two workers.
"""

import argparse
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults._layer import Command, run
from tests.faults._runs import Scenario, outcome, resume, scenarios, search, wrong_in
from tests.faults._trials import Campaign, Trial, main
from tests.faults.errors import told_in_one_line
from tests.faults.kills import undisturbed

TWO, ORPHANS, TERMINATED, WORKER_KILLS = 100, 20, 20, 40
LONG = ["--initial-steps", 120, "--checkpoint-every", 1000]
PATIENCE = 300.0
Moment = tuple[int, float]
"""So many records have been written, and so many seconds have passed since."""


# Two processes ---------------------------------------------------------


def two_at_once(scenario: Scenario, work: Path, apart: float, expected: dict[str, str]) -> Trial:
    """Two processes begin or resume one run; one has it, the other is told so, or comes after its end."""
    with scenario.folder(work) as folder:
        one = Command(scenario.command(folder), folder)
        time.sleep(apart)
        other = Command(scenario.command(folder), folder)
        endings = [ending for command in (one, other) if (ending := command.wait()) is not None]
        codes = sorted(ending.code for ending in endings)
        wrong = [text for ending in endings for text in told_in_one_line(ending)]
        if codes not in ([0, 0], [0, 2]):
            wrong.append(f"expected that one is refused, got {codes}")
        refused = [ending.text for ending in endings if ending.code == 2]
        wrong += [text for text in refused if "in use by" not in text and "is there already" not in text]
        return {"outcome": f"codes {codes}", "apart": apart, "wrong": wrong + wrong_in(folder, expected)}


# SIGTERM ---------------------------------------------------------


def long_search(folder: Path) -> list[object]:
    return [*search(folder), *LONG]


def resume_long(folder: Path) -> list[object]:
    return resume(folder) if (folder / "run" / "config.toml").is_file() else long_search(folder)


def terminated(scenario: Scenario, work: Path, share: float, measured: tuple[float, dict[str, str]]) -> Trial:
    """Send SIGTERM while a search trains; it stores a checkpoint and ends within five seconds, and can be resumed."""
    seconds, expected = measured
    with scenario.folder(work) as folder:
        command = Command(scenario.command(folder), folder)
        until = time.monotonic() + PATIENCE
        while not (folder / "run" / "provenance.json").exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.3 + share * seconds)
        before = set((folder / "run" / "checkpoints").glob("*"))
        command.kill(signal.SIGTERM)
        began = time.monotonic()
        first = command.wait(PATIENCE)
        took = time.monotonic() - began
        assert first is not None
        wrong = [] if took <= 5 else [f"it took {took:.1f} s"]
        if first.code == 143:
            wrong += [] if set((folder / "run" / "checkpoints").glob("*")) - before else ["no checkpoint was stored"]
            wrong += [] if "--resume" in first.text else [f"the resume is not told: {first.text}"]
        else:
            wrong.append(f"it ended with {first.code}: {first.text}")
        second = run(scenario.again(folder), folder)
        wrong += [] if second.code == 0 else [f"going on ended with {second.code}: {second.text}"]
        return {"outcome": "143", "seconds": round(took, 2), "wrong": wrong + wrong_in(folder, expected)}


# Two workers ---------------------------------------------------------


@contextmanager
def by_two(words: list[object]) -> Iterator["subprocess.Popen[bytes]"]:
    """A search by two workers, in a session of its own: what is left of it at the end is killed."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = [sys.executable, "-m", "graftwork", *map(str, words)]
    with subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            _kill_session(process.pid)


def _kill_session(session: int) -> None:
    for pid in session_of(session):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def session_of(session: int) -> list[int]:
    """Processes of a session that live."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, number = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(number) == session and state not in "ZX":
            found.append(int(folder.name))
    return found


def search_by_two(folder: Path) -> list[object]:
    return [*search(folder), "--workers", 2, "--initial-steps", 40, "--checkpoint-every", 0.2]


def resume_by_two(folder: Path) -> list[object]:
    return resume(folder) if (folder / "run" / "config.toml").is_file() else search_by_two(folder)


def orphaned(scenario: Scenario, work: Path, delay: float) -> Trial:
    """Kill the process that started the workers: they end within a second, and write nothing more."""
    with scenario.folder(work) as folder:
        with by_two([*scenario.command(folder), *LONG]) as process:
            _wait_for(folder / "run" / "provenance.json", process)
            time.sleep(delay)
            process.kill()
            process.wait()
            began = time.monotonic()
            while (left := session_of(process.pid)) and time.monotonic() - began < 10:
                time.sleep(0.01)
            took = time.monotonic() - began
            before = _state(folder)
            time.sleep(0.5)
        wrong = [f"{len(left)} workers live"] if left else [f"they took {took:.2f} s"] if took > 1 else []
        wrong += [] if _state(folder) == before else ["orphans have written"]
        return {"outcome": "ended", "seconds": round(took, 3), "wrong": wrong}


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


def _wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)


def workers_killed(scenario: Scenario, work: Path, moments: list[Moment], expected: dict[str, str]) -> Trial:
    """Kill all processes of a search by two workers, and of its resumes, and take it to its end."""
    with scenario.folder(work) as folder:
        kills, words = 0, scenario.command(folder)
        for rows, seconds in moments:
            with by_two(words) as process:
                if _reached(folder / "run" / "records.jsonl", rows, process):
                    time.sleep(seconds)
                kills += process.poll() is None
            words = scenario.again(folder)
        with by_two(words) as process:
            code = process.wait(PATIENCE)
        wrong = [] if code == 0 else [f"going on ended with {code}"]
        return {"kills": kills, "moments": moments, "outcome": "equal", "wrong": wrong + wrong_in(folder, expected)}


def _reached(records: Path, rows: int, process: "subprocess.Popen[bytes]") -> bool:
    """Wait until a run has so many records; whether it did before its end."""
    while process.poll() is None:
        if rows == 0 or (records.exists() and records.read_bytes().count(b"\n") >= rows):
            return True
        time.sleep(0.005)
    return False


def trials(campaign: Campaign, work: Path, given: argparse.Namespace) -> None:
    draw, made = random.Random(given.seed), scenarios(work)
    for scenario in (made["resume"], made["search"]):
        _, expected, seconds = undisturbed(scenario, work)
        for number in range(given.points or TWO // 2):
            apart = 0.0 if number % 2 else round(draw.uniform(0, 0.2 * seconds), 3)
            key = f"two at a {scenario.name} {number}"
            campaign.make("two processes", key, two_at_once, scenario, work, apart, expected)
    stopped = Scenario("stopped", None, long_search, resume_long)
    _, expected, seconds = undisturbed(stopped, work)
    for number in range(given.points or TERMINATED):
        share = round(draw.uniform(0, 0.5), 3)
        campaign.make("SIGTERM", f"SIGTERM {number}", terminated, stopped, work, share, (seconds, expected))
    if given.points is None:
        by_workers(campaign, work, draw)


def by_workers(campaign: Campaign, work: Path, draw: random.Random) -> None:
    """What needs two workers: each trial starts three processes or more."""
    scenario = Scenario("two workers", None, search_by_two, resume_by_two)
    with scenario.folder(work) as folder, by_two(scenario.command(folder)) as process:
        assert process.wait() == 0
        rows, expected = len((folder / "run" / "records.jsonl").read_text().splitlines()), outcome(folder / "run")
    for number in range(ORPHANS):
        delay = round(draw.uniform(0, 1.0), 3)
        campaign.make("parent killed", f"parent {number}", orphaned, scenario, work, delay)
    for number in itertools.count():
        if sum(trial.get("kills", 0) for trial in campaign.trials.values()) >= WORKER_KILLS:
            break
        moments = sorted((draw.randrange(rows), round(draw.uniform(0.0, 1.0), 2)) for _ in range(3))
        campaign.make("two workers killed", f"workers {number}", workers_killed, scenario, work, moments, expected)


if __name__ == "__main__":
    main("tests.faults.processes", __doc__, trials)
