"""A search in Python: evolve a population on the bundled digits, and look at what came of it.

python examples/search_digits.py [BUDGET]
"""

import sys

import graftwork as gw
from graftwork.networks.genome import draw, forward_flops


def main(budget: str = "0.0003PFLOP") -> None:
    """Search with a budget of training and scoring (FLOPs, steps or time)."""
    setup = gw.prepare(data="digits", budget=budget, selection="coevolution", num_generations=2, seed=0)
    print(setup.plan)
    for generation in gw.search(setup.state, **setup.parts):
        print(generation)
        for birth in generation.births:
            print(f"  {birth.id} from {birth.parent}: {birth.transform}")

    print("survivors, in order of choice:")
    for member_id in generation.survivors:
        genome = setup.population[member_id].genome
        accuracy = generation.accuracies[member_id]
        print(f"  {member_id}: {accuracy:.4f} validation, {forward_flops(genome) / 1e6:.2f} MFLOPs")
    print(draw(setup.population[generation.best].genome))


if __name__ == "__main__":
    main(*sys.argv[1:])
