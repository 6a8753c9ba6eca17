"""Several members per step: validation accuracy at equal FLOPs, and seconds, for S = 1, 2, 4, 8.

    python benchmarks/members_per_step.py --data PATH-TO-CIFAR10 --recipe paper --generations 3 --budget 3TFLOP \\
        --validation 0.04 --calibration 250 --json results/members-per-step/members_per_step.json
    python benchmarks/members_per_step.py --quick --json members_per_step.json

Every search has the same budget in FLOPs (training and scoring; what members have in common counts once), so that a
larger S makes fewer updates of more members. The first round, of the seed alone, is the same for every S, so the budget
has to leave something for the others. The sizes take turns within each seed. With ``--jobs 2`` two searches run
at a time, so seconds are those of a machine that is shared by two. Searches that stand in the JSON file are not run
again. The test split stays shut.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from pathlib import Path
from statistics import fmean, median

from graftwork.config import SearchConfig, prepare
from graftwork.evolution import search
from graftwork.runs import keep_memory, provenance


def one(options: dict[str, object]) -> dict[str, object]:
    keep_memory()
    setup = prepare(SearchConfig.from_dict(options))
    start = time.perf_counter()
    rounds = list(search(setup.state, **setup.parts))
    last = rounds[-1]
    return {
        "best": last.accuracies[last.best],
        "survivors": fmean(last.accuracies[member] for member in last.survivors),
        "members": fmean(last.accuracies.values()),
        "updates": last.step,
        "updates_of_the_seed": rounds[0].step,
        "training_flops": last.training_flops,
        "scoring_flops": last.scoring_flops,
        "seconds": round(time.perf_counter() - start, 3),
    }


def public(arguments: list[str], data: str) -> str:
    """A path of one machine has no place in results."""
    return " ".join(
        f"PATH-TO-{Path(data).name.upper()}" if word == data and "/" in data else word for word in arguments
    )


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def summary(trials: dict[str, dict[str, dict]]) -> dict[str, dict]:
    """Each S against S = 1 of the same seed."""
    found = {}
    for size, rows in trials.items():
        paired = [(row, trials["1"][seed]) for seed, row in rows.items() if seed in trials.get("1", {})]
        if paired:
            found[size] = {
                "ratio": spread([row["seconds"] / base["seconds"] for row, base in paired]),
                "best": spread([row["best"] for row, _ in paired]),
                "best_minus_one": spread([row["best"] - base["best"] for row, base in paired]),
                "members_minus_one": spread([row["members"] - base["members"] for row, base in paired]),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--budget", default="0.02PFLOP")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--generations", type=int, help="rounds after the first; the recipe's own")
    parser.add_argument("--validation", type=float, default=0.1)
    parser.add_argument("--calibration", type=int, help="images to calibrate with; the recipe's own")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--population-size", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="searches at a time")
    parser.add_argument("--quick", action="store_true", help="digits, small budget, one seed")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    if given.quick:
        given.data, given.budget, given.seeds, given.sizes = "digits", "0.00003PFLOP", 1, [1, 4]
    options = {"data": given.data, "budget": given.budget, "threads": given.threads, "precision": given.precision}
    options |= {"recipe": given.recipe, "num_generations": given.generations, "num_calibration": given.calibration}
    options |= {"recipe": "paper", "num_generations": 2, "num_calibration": 100} if given.quick else {}
    options |= {"population_size": given.population_size, "validation": given.validation, "blend": 0}
    found = json.loads(given.json.read_text()) if given.json.is_file() else {"trials": {}}
    found |= {"command": f"python benchmarks/members_per_step.py {public(sys.argv[1:], given.data)}"}
    found |= {
        "recipe": options["recipe"],
        "budget": given.budget,
        "population_size": given.population_size,
        "jobs": given.jobs,
    }
    trials = found["trials"]
    given.json.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(given.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for size, seed, row in run(pool, options, given.seeds, given.sizes, trials):
            trials.setdefault(str(size), {})[str(seed)] = row
            print(f"seed {seed}, S = {size}: {row}", flush=True)
            found |= {"sizes": summary(trials), "provenance": provenance()}
            given.json.write_text(json.dumps(found, indent=2) + "\n")


def run(
    pool: Executor, options: dict[str, object], seeds: int, sizes: list[int], trials: dict[str, dict[str, dict]]
) -> Iterator[tuple[int, int, dict[str, object]]]:
    """Size, seed and what was found, of every search that is not yet among the trials, as they end."""
    waiting = {
        pool.submit(one, {**options, "seed": seed, "members_per_step": size}): (size, seed)
        for seed in range(seeds)
        for size in sizes
        if str(seed) not in trials.get(str(size), {})
    }
    for future in as_completed(waiting):
        yield *waiting[future], future.result()


if __name__ == "__main__":
    main()
