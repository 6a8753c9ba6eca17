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
from graftwork.evolution import search
from graftwork.machine import keep_memory
from graftwork.networks.genome import SEEDS, forward_flops
from graftwork.runs import provenance
from graftwork.session import prepare
from graftwork.training import RECIPES

ALONE = {"num_generations": 0, "population_size": 1, "num_survivors": 1, "initial_fraction": 1.0}


def one(given: argparse.Namespace, budget: str, name: str, seed: int) -> dict[str, object]:
    """Train one seed network with a whole budget."""
    recipe = RECIPES[given.recipe].replace(seed_genome=name, **ALONE)
    options = {"data": given.data, "seed": seed, "budget": budget, "threads": 1, "precision": "float32"}
    if given.min_updates is not None:
        recipe = recipe.replace(min_updates=given.min_updates)
    if given.max_images is not None:
        options["max_images"] = given.max_images
    setup = prepare(recipe=recipe, **options)
    before = resource.getrusage(resource.RUSAGE_SELF)
    generation = list(search(setup.state, **setup.parts))[-1]
    after = resource.getrusage(resource.RUSAGE_SELF)
    genome = setup.state.population.genomes[0]
    return {
        "budget": budget,
        "seed_genome": name,
        "seed": seed,
        "validation_accuracy": generation.accuracies[generation.best],
        "validation_images": len(setup.problem.splits.validation),
        "steps": generation.step,
        "batch_size": setup.recipe.batch_size,
        "training_images": len(setup.problem.splits.train),
        "input_shape": list(genome.input_shape),
        "forward_flops": forward_flops(genome),
        "training_flops": generation.training_flops,
        "processor_seconds": round(after.ru_utime - before.ru_utime, 1),
    }


def table(rows: list[dict]) -> str:
    """Mean accuracies, a line for each budget."""
    names = list(dict.fromkeys(row["seed_genome"] for row in rows))
    lines = [f"| budget | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for budget in dict.fromkeys(row["budget"] for row in rows):
        cells = []
        for name in names:
            found = [r["validation_accuracy"] for r in rows if (r["budget"], r["seed_genome"]) == (budget, name)]
            cells.append(f"{100 * fmean(found):.2f} ({len(found)})" if found else "–")
        lines.append(f"| {budget} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all cases, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--budgets", nargs="+", required=True)
    parser.add_argument("--names", nargs="+", default=["small", "default"], choices=list(SEEDS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--max-images", type=int)
    parser.add_argument("--min-updates", type=int, help="Updates below which batches are halved.")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    keep_memory()
    rows = json.loads(given.json.read_text())["rows"] if given.json.is_file() else []
    known = {(row["budget"], row["seed_genome"], row["seed"]) for row in rows}
    cases = [(budget, name, seed) for seed in range(given.seeds) for budget in given.budgets for name in given.names]
    for case in cases:
        if case in known:
            continue
        rows.append(one(given, *case))
        print(rows[-1], flush=True)
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(as_json({"rows": rows, "provenance": provenance()}))
    print(table(rows))


if __name__ == "__main__":
    main()
