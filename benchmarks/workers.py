"""Workers: member-steps a second of two single-thread workers, of one, and of one process with two threads.

    python benchmarks/workers.py --data PATH-TO-CIFAR10 --json results/workers/workers.json
    python benchmarks/workers.py --data PATH-TO-CIFAR10 --json results/workers/workers.json --searches 3
    python benchmarks/workers.py --quick --json workers.json

The rates are of joint training, all exchange included, on a population that has been grown by the recipe's own
mutation; the four take turns. With ``--searches``, whole searches at the same FLOPs follow, for that many seeds, by one
worker and by two (which share batches in the first round, and deal members and average afterwards). Those that stand in
the JSON file are not run again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import torch

from graftwork._files import as_json
from graftwork.evolution import Plan, joint_train
from graftwork.machine import keep_memory
from graftwork.runs import provenance
from graftwork.session import SearchConfig, Setup, mutation_of, prepare
from graftwork.workers import Group, launch, train_together

WAYS = {
    "one worker, one thread": (1, 1, False),
    "one process, two threads": (1, 2, False),
    "two workers, one thread each": (2, 1, False),
    "two workers, one thread each, sharing batches": (2, 1, True),
}
"""Workers, threads of each, and whether they share every batch."""
SEARCHES = ("1", "2")
"""Workers."""


def grown(config: SearchConfig, members: int) -> Setup:
    """A population grown in three rounds, untrained."""
    setup = prepare(config)
    for size in (max(1, members // 4), max(1, members // 2), members):
        mutation_of(setup.config)(setup.population, size, rng=setup.state.rng, generation=1)
    return setup


def train(method: str | None, options: dict[str, Any], members: int, steps: int, out: str) -> None:
    """One rank (or, without a method, all of it): warm up, then time; rank 0 writes the seconds."""
    keep_memory()
    group = None if method is None else Group.join(method=method)
    torch.set_num_threads(options["threads"])
    setup = grown(SearchConfig.from_dict(options), members)
    trainer = setup.trainer if group is None else train_together(setup.trainer, group, setup.config.sync_every)
    setup.state.generation = 1
    seconds = []
    for until in (max(4, steps // 5), max(4, steps // 5) + steps):
        start = time.perf_counter()
        joint_train(setup.state, trainer=trainer, scorer=setup.scorer, plan=Plan(1, 0, until))
        if group is not None:
            group.add(torch.zeros(1))
        seconds.append(time.perf_counter() - start)
    if group is None or group.leads:
        Path(out).write_text(json.dumps({"seconds": seconds[1], "digest": setup.population.bank.digest()}))
    if group is not None:
        group.leave()


def timed(options: dict[str, Any], members: int, steps: int, *, size: int, threads: int = 1) -> float:
    """Member-steps a second."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/seconds.json"
        arguments = ({**options, "threads": threads}, members, steps, out)
        if size > 1:
            launch(train, size, *arguments)
        else:
            launch(alone, 1, *arguments)
        return steps / float(json.loads(Path(out).read_text())["seconds"])


def alone(method: str, *arguments: Any) -> None:
    """One process of its own, without any exchange."""
    train(None, *arguments)


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def rates(given: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for repetition in range(given.repetitions):
        for name, way in WAYS.items():
            size, threads, sharing = way
            how = options | {"sync_every": 0 if sharing else given.sync_every}
            found[name].append(timed(how, given.members, given.steps, size=size, threads=threads))
            print(f"repetition {repetition}, {name}: {found[name][-1]:.2f} member-steps/s", flush=True)
    one, threads, *two = found.values()

    def over(values: list[float], others: list[float]) -> dict[str, float]:
        return spread([a / b for a, b in zip(values, others, strict=True)])

    return {
        "member_steps_per_second": {name: spread(values) for name, values in found.items()},
        "ratio": over(two[0], one),
        "ratio_to_two_threads": over(two[0], threads),
        "sharing_batches": {"ratio": over(two[1], one), "ratio_to_two_threads": over(two[1], threads)},
    }


def searched(flags: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "graftwork", "search", "--quiet", "--no-report"]
    command += [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*command, "--out", f"{folder}/run"], check=True, stdout=subprocess.DEVNULL)
        result = json.loads(Path(f"{folder}/run/result.json").read_text())
    best = result["best"]
    return {"seconds": result["seconds"], "steps": result["steps"]} | {
        key: best[key] for key in ("validation_accuracy", "test_accuracy", "parameters")
    }


def compared(rows: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Two workers against one, over the seeds that both ran."""
    seeds = sorted(set.intersection(*(set(rows[name]) for name in SEARCHES)))
    values = {name: [rows[name][seed]["test_accuracy"] for seed in seeds] for name in SEARCHES}
    found: dict[str, Any] = {
        "test_accuracy": {f"{n} workers": {"mean": fmean(v), "deviation": stdev(v)} for n, v in values.items()}
    }
    for name in SEARCHES[1:]:
        pairs = [(rows["1"][seed], rows[name][seed]) for seed in seeds]
        found[f"{name} workers against 1"] = {
            "difference": spread([two["test_accuracy"] - one["test_accuracy"] for one, two in pairs]),
            "seconds_ratio": spread([one["seconds"] / two["seconds"] for one, two in pairs]),
        }
    return found


def public(arguments: list[str], data: str) -> str:
    """A path of one machine has no place in results."""
    return " ".join(
        f"PATH-TO-{Path(data).name.upper()}" if word == data and "/" in data else word for word in arguments
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--steps", type=int, default=160, help="timed updates of each measurement")
    parser.add_argument("--sync-every", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--searches", type=int, default=0, help="seeds of whole searches; 0: none")
    parser.add_argument("--budget", default="0.02PFLOP", help="of a search")
    parser.add_argument("--quick", action="store_true", help="digits, the poster's small network, one repetition")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    if given.quick:
        given.data, given.recipe, given.steps, given.repetitions, given.members = "digits", "paper", 32, 1, 4
        given.budget = "0.0001PFLOP"
    options = {"data": given.data, "recipe": given.recipe, "precision": given.precision}
    found = json.loads(given.json.read_text()) if given.json.is_file() else {}

    def store() -> None:
        found["command"] = f"python benchmarks/workers.py {public(sys.argv[1:], given.data)}"
        found["provenance"] = provenance()
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(as_json(found))

    if "ratio" not in found:
        found |= rates(given, options)
        store()
    rows = found.setdefault("searches", {})
    for seed in map(str, range(given.searches)):
        for name in SEARCHES:
            if seed not in rows.setdefault(name, {}):
                how = options | {"workers": int(name), "sync-every": given.sync_every, "threads": 1}
                rows[name][seed] = searched(how | {"budget": given.budget, "seed": seed})
                print(f"seed {seed}, {name} workers: {rows[name][seed]}", flush=True)
                store()
    if given.searches > 1:
        found |= compared(rows)
        store()


if __name__ == "__main__":
    main()
