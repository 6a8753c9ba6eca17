"""Kill a run by SIGKILL at file operations and at random moments; going on, it has to end with the same bits.

    python -m tests.faults.kills --log build/kills.jsonl --json results/faults/kills.json

At file operations: operations that change something are grouped by call and kind of file. One of each group, chosen by
the seed, and a sample of the others: before it, after it, and for writes when half of the bytes are there. At random
moments: up to three kills a run, anywhere between its start and its end.
"""

import argparse
import itertools
import random
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from tests.faults._layer import Command, Ending, Fault, How, run
from tests.faults._runs import Scenario, kind_of, outcome, scenarios, wrong_in
from tests.faults._trials import Campaign, Trial, main

READS = ("read", "open to read", "list")
HOWS: tuple[How, ...] = ("torn", "before", "after")
MORE = 15
"""Further operations of each command, drawn from all."""
RANDOM_KILLS = 220


def undisturbed(scenario: Scenario, work: Path) -> tuple[Ending, dict[str, str], float]:
    """What a command does and leaves when nothing happens, and how long it takes."""
    with scenario.folder(work) as folder:
        began = time.monotonic()
        ending = run(scenario.command(folder), folder)
        seconds = time.monotonic() - began
        assert ending.code == 0, ending.text
        assert not (wrong := wrong_in(folder, outcome(folder / "run"))), wrong
        return ending, outcome(folder / "run"), seconds


def chosen(
    operations: tuple[tuple[str, str], ...], *, reads: bool, more: int, draw: random.Random, seen: Collection[str] = ()
) -> dict[int, str]:
    """Number and kind of one operation of each kind that was not seen before, and of so many others."""
    kinds: dict[str, list[int]] = {}
    for number, operation in enumerate(operations, 1):
        if reads or operation[0] not in READS:
            kinds.setdefault(kind_of(operation), []).append(number)
    found = {draw.choice(numbers): kind for kind, numbers in kinds.items() if kind not in seen}
    others = [(number, kind) for kind, numbers in kinds.items() for number in numbers if number not in found]
    return found | dict(draw.sample(others, min(more, len(others))))


def killed_at(scenario: Scenario, work: Path, fault: Fault, expected: dict[str, str]) -> Trial:
    """Kill a command at an operation, and go on."""
    with scenario.folder(work) as folder:
        first = run(scenario.command(folder), folder, fault)
        second = run(scenario.again(folder), folder)
        wrong = [] if first.code == -9 else [f"it was not killed but ended with {first.code}: {first.text}"]
        wrong += [] if second.code == 0 else [f"going on ended with {second.code}: {second.text}"]
        return {"outcome": "equal", "wrong": wrong + wrong_in(folder, expected)}


def killed_at_moments(scenario: Scenario, work: Path, delays: list[float], expected: dict[str, str]) -> Trial:
    """Kill a run after so many seconds, and its resumes too, and take it to its end."""
    with scenario.folder(work) as folder:
        kills, words = 0, scenario.command(folder)
        for delay in delays:
            command = Command(words, folder)
            if command.wait(delay) is None:
                command.kill()
                command.wait()
                kills += 1
            words = scenario.again(folder)
        last = run(words, folder)
        wrong = [] if last.code == 0 else [f"going on ended with {last.code}: {last.text}"]
        return {"kills": kills, "delays": delays, "outcome": "equal", "wrong": wrong + wrong_in(folder, expected)}


def moments(seconds: float, seed: int) -> Iterator[tuple[str, list[float]]]:
    """Delays in seconds of up to three kills of one run, by the name of the trial; without end."""
    draw = random.Random(f"moments {seed}")
    for number in itertools.count():
        yield f"moments {number}", [round(draw.uniform(0.0, seconds), 3) for _ in range(draw.randint(1, 3))]


def trials(campaign: Campaign, work: Path, given: argparse.Namespace) -> None:
    draw, seen = random.Random(given.seed), set[str]()
    points: list[tuple[Scenario, dict[str, str], int, str, How]] = []
    for scenario in scenarios(work).values():
        ending, expected, _ = undisturbed(scenario, work)
        new = chosen(ending.operations, reads=False, more=MORE, draw=draw, seen=seen)
        seen |= set(new.values())
        print(f"{scenario.name}: {len(ending.operations)} operations, {len(new)} chosen", flush=True)
        points += [(scenario, expected, number, kind, how) for number, kind in new.items() for how in HOWS]
    points = [point for point in points if point[4] != "torn" or point[3].startswith(("write", "copy"))]
    points.sort(key=lambda point: HOWS.index(point[4]))  # a campaign that is cut short has been everywhere in one way
    for scenario, expected, number, kind, how in draw.sample(points, given.points) if given.points else points:
        key = f"{scenario.name} {number} {how} {kind}"
        campaign.make(f"{scenario.name}, {how}", key, killed_at, scenario, work, Fault(number, how), expected)
    at_moments(campaign, work, given)


def at_moments(campaign: Campaign, work: Path, given: argparse.Namespace) -> None:
    """Kill searches at random moments until there are enough kills."""
    scenario = scenarios(work)["search"]
    _, expected, seconds = undisturbed(scenario, work)
    delays = moments(seconds, given.seed)
    while sum(trial.get("kills", 0) for trial in campaign.trials.values()) < (given.points or RANDOM_KILLS):
        key, times = next(delays)
        campaign.make("search, at moments", key, killed_at_moments, scenario, work, times, expected)


if __name__ == "__main__":
    main("tests.faults.kills", __doc__, trials)
