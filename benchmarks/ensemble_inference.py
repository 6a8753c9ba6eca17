"""What an ensemble costs with every shared prefix run once, beside running its members one by one.

    python benchmarks/ensemble_inference.py --json results/ensemble-inference/inference.json
    python benchmarks/ensemble_inference.py --run runs/mine --json inference.json
    python benchmarks/ensemble_inference.py --quick --json build/inference.json

Both ways run the same batches in turn, in an order that alternates, and their outputs are compared to the bit: in the
reference form, and in the fused form, which is timed. Without ``--run`` the ensembles are the survivors of searches
that mutate as the recipes do but choose by chance, on scrambled weights: how long a search lasts sets what its
survivors still share. FLOPs are analytic; seconds are those of this machine.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import _ratio
from graftwork.evolution import Population
from graftwork.evolution.mutation import R2RMutation
from graftwork.machine import keep_memory
from graftwork.networks import Member, recalibrate
from graftwork.networks.execution import shared_flops, walk
from graftwork.networks.genome import forward_flops, seed_genome
from graftwork.runs import RunFolder, load_member
from graftwork.training import RECIPES

NUM_SURVIVORS = 3


def evolved(recipe_name: str, generations: int, *, seed: int) -> list[Member]:
    """Survivors of a search without training: random weights, random selection, real mutations."""
    recipe, rng = RECIPES[recipe_name], np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(64, 3, 32, 32, generator=generator)
    genome = seed_genome(recipe.seed_genome, (3, 32, 32), 10)
    population = Population()
    population.add_seed(genome, generator=generator, initialisation="random", images=images)
    mutate = R2RMutation(
        deepen_probability=recipe.deepen_probability,
        kernel_probabilities=recipe.kernel_probabilities,
        hidden_multiple=recipe.hidden_multiple,
    )
    for generation in range(1, generations + 1):
        mutate(population, recipe.population_size, rng=rng, generation=generation)
        names = list(population.members)
        population.keep([names[row] for row in sorted(rng.permutation(len(names))[:NUM_SURVIVORS])])
    with torch.no_grad():
        for block_id in population.bank:  # away from twins that cancel
            for tensor in population.bank[block_id].values():
                tensor.add_(0.05 * tensor.abs().mean() * torch.randn(tensor.shape, generator=generator))
    members = list(population)
    recalibrate(members, images)
    return [member.eval() for member in members]


def stored(path: Path) -> list[Member]:
    run = RunFolder.open(path)
    return [load_member(run, row["id"])[0] for row in run.result()["survivors"]]


def in_reference_form(members: list[Member]) -> list[Member]:
    found = [Member(member.genome, member.weights, form="reference").eval() for member in members]
    for copy, member in zip(found, members, strict=True):
        copy.statistics.update(member.statistics)
    return found


def shared(members: list[Member], x: torch.Tensor) -> torch.Tensor:
    outputs = dict(walk(members, x, "evaluate"))
    return torch.stack([outputs[index] for index in range(len(members))], dim=1)


def naive(members: list[Member], x: torch.Tensor) -> torch.Tensor:
    return torch.stack([member(x) for member in members], dim=1)


@torch.inference_mode()
def measure(members: list[Member], *, batch_size: int, repetitions: int) -> dict[str, object]:
    shape = members[0].genome.input_shape
    x = torch.randn(batch_size, *shape, generator=torch.Generator().manual_seed(1))
    x = x.contiguous(memory_format=torch.channels_last)
    few = x[: min(batch_size, 16)]
    for form, part in ((in_reference_form(members), few), (members, x)):
        assert torch.equal(shared(form, part), naive(form, part)), "prefix-shared outputs differ"
    ways = {"naive": lambda: naive(members, x), "shared": lambda: shared(members, x)}
    seconds = _ratio.times(ways, repetitions)
    genomes = [member.genome for member in members]
    flops = {"naive": sum(map(forward_flops, genomes)), "shared": shared_flops(genomes)}
    return {
        "num_members": len(members),
        "equal_to_the_bit": {"reference": True, "fused": True},
        "flops_per_image": {**flops, "ratio": flops["naive"] / flops["shared"]},
        "seconds_per_batch": {name: _ratio.spread(values) for name, values in seconds.items()},
        "seconds_ratio": _ratio.ratio(seconds["naive"], seconds["shared"]),
    }


def cases(given: argparse.Namespace) -> dict[str, list[Member]]:
    if given.run:
        return {path.name: stored(path) for path in given.run}
    lengths = {"paper": (2,)} if given.quick else {"paper": (2, 5, 15), "default": (1, 4)}
    return {
        f"{recipe}, {count} generations": evolved(recipe, count, seed=0)
        for recipe, counts in lengths.items()
        for count in counts
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--run", type=Path, nargs="+", help="finished runs, whose survivors are the ensembles")
    parser.add_argument("--quick", action="store_true", help="small, to see that it works; its times mean nothing")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    keep_memory()
    torch.set_num_threads(given.threads)
    size = {"batch_size": 20, "repetitions": 3} if given.quick else vars(given)
    batch_size, repetitions = size["batch_size"], size["repetitions"]
    found = {}
    for name, members in cases(given).items():
        found[name] = measure(members, batch_size=batch_size, repetitions=repetitions)
    setting = {"batch_size": batch_size, "repetitions": repetitions, "quick": given.quick}
    _ratio.write(given.json, {**setting, "ensembles": found})


if __name__ == "__main__":
    main()
