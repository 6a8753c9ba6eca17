"""Screen the default recipe: one network alone, one seed, validation accuracy only (the test split stays shut).

    python benchmarks/screen.py --data PATH-TO-CIFAR10 --budget 0.03PFLOP --json results/screen/screen.json
    python benchmarks/screen.py --data PATH-TO-CIFAR10 --only base batch-125

Variants that stand in the JSON file are not run again.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from graftwork._files import as_json
from graftwork.evolution import search
from graftwork.machine import keep_memory
from graftwork.networks.genome import Genome, Head, Layer, Pool, forward_flops, seed_genome
from graftwork.runs import provenance
from graftwork.session import Problem, SearchConfig, Setup, prepare
from graftwork.training import RECIPES, Recipe, Rule

ALONE = {"num_generations": 0, "population_size": 1, "num_survivors": 1}
"""What makes a search train its seed network, and nothing else."""


def muon(lr: float) -> Callable[[Recipe], Recipe]:
    return lambda recipe: recipe.replace(
        rules={**recipe.rules, "filter": replace(recipe.rules["filter"], lr=lr)},
    )


def adam(lr: float) -> Callable[[Recipe], Recipe]:
    return lambda recipe: recipe.replace(
        rules={role: replace(rule, lr=lr) if rule.optimizer == "adam" else rule for role, rule in recipe.rules.items()},
    )


def head(pooling: str, scale: float) -> Callable[[Genome], Genome]:
    return lambda genome: genome.replace(head=Head("linear", hidden_features=0, pooling=pooling, scale=scale))


def last_stage(width: int) -> Callable[[Genome], Genome]:
    """All layers of the widest kind get this width."""

    def change(genome: Genome) -> Genome:
        widest = max(layer.out_channels for layer in genome.layers)
        return genome.replace(body=tuple(_as_wide(item, width, widest) for item in genome.body))

    return change


def _as_wide(item: Layer | Pool, width: int, widest: int) -> Layer | Pool:
    if isinstance(item, Pool) or item.out_channels < widest:
        return item
    blocks = tuple(replace(block, hidden_channels=width, stop=width) for block in item.blocks)
    return Layer(width, blocks)


def mixing(rule: Rule) -> Callable[[Recipe], Recipe]:
    return lambda recipe: recipe.replace(rules={**recipe.rules, "mixing": rule})


def earlier(recipe: Recipe) -> Recipe:
    """The values before this screening: Adam at 0.003 on all but filters, smoothing 0.2."""
    slow = adam(0.003)(mixing(Rule("adam", 0.003, betas=(0.9, 0.99)))(recipe))
    return slow.replace(label_smoothing=0.2)


RECIPE_VARIANTS: dict[str, Callable[[Recipe], Recipe]] = {
    "base": lambda recipe: recipe,
    "batch-125": lambda recipe: recipe.replace(batch_size=125),
    "batch-500": lambda recipe: recipe.replace(batch_size=500),
    "muon-0.05": muon(0.05),
    "muon-0.2": muon(0.2),
    "before": earlier,
    "adam-0.003": adam(0.003),
    "adam-0.03": adam(0.03),
    "mixing-adam-0.01": mixing(Rule("adam", 0.01, betas=(0.9, 0.99))),
    "mixing-muon-0.1": mixing(Rule("muon", 0.1, momentum=0.6, num_iterations=3)),
    "twin-seed": lambda recipe: recipe.replace(initialisation="twin"),
    "full-size-images": lambda recipe: recipe.replace(small_share=0.0),
    "small-images-longer": lambda recipe: recipe.replace(small_share=0.7),
    "smoothing-0.2": lambda recipe: recipe.replace(label_smoothing=0.2),
    "stable-decay": lambda recipe: recipe.replace(schedule="warmup-stable-decay", schedule_options={"decay": 0.4}),
}
GENOME_VARIANTS: dict[str, Callable[[Genome], Genome]] = {
    "relu": lambda genome: genome.replace(activation="relu"),
    "silu": lambda genome: genome.replace(activation="silu"),
    "last-stage-128": last_stage(128),
    "last-stage-256": last_stage(256),
    "avg-pool-head": head("avg", 0.25),
    "unscaled-head": head("max", 1.0),
}


def one(problem: Problem, config: SearchConfig, name: str) -> dict[str, object]:
    recipe = RECIPE_VARIANTS.get(name, RECIPE_VARIANTS["base"])(config.recipe)
    classes = len(problem.dataset.class_names)
    genome = seed_genome(recipe.seed_genome, problem.input_shape, classes)
    genome = GENOME_VARIANTS.get(name, lambda same: same)(genome)
    return trained(prepare(replace(config, recipe=recipe), problem=problem, seed_network=genome))


def trained(setup: Setup) -> dict[str, object]:
    """Train the seed network alone; what came of it on validation."""
    generation = list(search(setup.state, **setup.parts))[-1]
    return {
        "validation_accuracy": generation.accuracies[generation.best],
        "mean_loss": generation.mean_loss,
        "steps": generation.step,
        "training_flops": generation.training_flops,
        "flops": forward_flops(setup.seed_network),
        "precision": setup.machine.precision,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--budget", default="0.03PFLOP")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[*RECIPE_VARIANTS, *GENOME_VARIANTS])
    parser.add_argument("--json", type=Path, default=Path("results/screen/screen.json"))
    given = parser.parse_args()
    keep_memory()
    recipe = RECIPES["default"].replace(**ALONE)
    options = {"data": given.data, "seed": given.seed, "budget": given.budget, "threads": 1, "recipe": recipe}
    config = SearchConfig.from_dict(options)
    problem = Problem.load(config)
    found = json.loads(given.json.read_text()) if given.json.is_file() else {"budget": given.budget, "variants": {}}
    for name in given.only:
        if name in found["variants"]:
            continue
        found["variants"][name] = one(problem, config, name)
        print(name, found["variants"][name], flush=True)
        found |= {"seed": given.seed, "provenance": provenance()}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(as_json(found))


if __name__ == "__main__":
    main()
