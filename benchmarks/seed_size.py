"""Seed networks of several sizes, each trained alone by the default recipe: which size is best at which budget?

    python benchmarks/seed_size.py --data PATH-TO-CIFAR10 --budgets 5TFLOP 10TFLOP --json results/seed-size/cifar10.json
    python benchmarks/seed_size.py --data letters --budgets 1TFLOP 2TFLOP --json results/seed-size/letters.json

What is left to budget and data (sizes of images and batches, augmentation) is settled as in a search. Accuracy is that
of the validation split; the test split stays shut. Rows that stand in the JSON file are not measured again.
"""

import argparse
import json
import resource
from pathlib import Path
from statistics import fmean

from graftwork._files import as_json
from graftwork.machine import keep_memory
from graftwork.networks.genome import SEEDS
from graftwork.runs import provenance
from graftwork.session import prepare
from graftwork.training import RECIPES
from screen import ALONE, trained

CASE = ("budget", "seed_genome", "seed", "min_updates")


def one(data: str, budget: str, name: str, seed: int, min_updates: int) -> dict[str, object]:
    """Train one seed network with a whole budget."""
    recipe = RECIPES["default"].replace(seed_genome=name, min_updates=min_updates, **ALONE)
    setup = prepare(data=data, seed=seed, budget=budget, threads=1, precision="float32", recipe=recipe)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    return {
        **dict(zip(CASE, (budget, name, seed, min_updates), strict=True)),
        **trained(setup),
        "validation_images": len(setup.problem.splits.validation),
        "batch_size": setup.recipe.batch_size,
        "training_images": len(setup.problem.splits.train),
        "input_shape": list(setup.seed_network.input_shape),
        "processor_seconds": round(resource.getrusage(resource.RUSAGE_SELF).ru_utime - before, 1),
        "git_commit": provenance()["git_commit"],
    }


def table(rows: list[dict]) -> str:
    """Mean accuracies in per cent and numbers of seeds, a line for each budget and least number of updates."""
    names = list(dict.fromkeys(row["seed_genome"] for row in rows))
    lines = [f"| budget | halved below | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for budget, least in dict.fromkeys((row["budget"], row["min_updates"]) for row in rows):
        cells = []
        for name in names:
            case = (budget, name, least)
            same = [r for r in rows if (r["budget"], r["seed_genome"], r["min_updates"]) == case]
            found = [r["validation_accuracy"] for r in same]
            cells.append(f"{100 * fmean(found):.2f} ({len(found)})" if found else "–")
        lines.append(f"| {budget} | {least} updates | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all cases, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--budgets", nargs="+", required=True)
    parser.add_argument("--names", nargs="+", default=["small", "default"], choices=list(SEEDS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--min-updates", type=int, default=RECIPES["default"].min_updates, help="Below, batches halve.")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    keep_memory()
    rows = json.loads(given.json.read_text())["rows"] if given.json.is_file() else []
    known = {tuple(row[key] for key in CASE) for row in rows}
    cases = [(budget, name, seed) for seed in range(given.seeds) for budget in given.budgets for name in given.names]
    for case in cases:
        if (*case, given.min_updates) in known:
            continue
        rows.append(one(given.data, *case, given.min_updates))
        print(rows[-1], flush=True)
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(as_json({"rows": rows, "provenance": provenance()}))
    print(table(rows))


if __name__ == "__main__":
    main()
