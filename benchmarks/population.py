"""The evolved population that the speed benchmarks run: one of a real search, genomes only.

    graftwork search --data PATH-TO-CIFAR10 --recipe paper --num-generations 40 --initial-steps 100 \\
        --steps-per-generation 20 --validation 500 --threads 1 --precision bfloat16 --seed 0 --out RUN
    python benchmarks/population.py RUN --generation 22 --json benchmarks/population.json

What the search learns does not matter here, only which blocks its members are made of and which of them they share.
Of its rounds, the 22nd is the first whose members all have six layers or more.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.genome import Genome, Layer
from graftwork.runs import RunFolder

STORED = Path(__file__).with_name("population.json")


def load(path: Path = STORED) -> list[Genome]:
    """The stored genomes."""
    return [Genome.from_dict(entry) for entry in json.loads(path.read_text(encoding="utf-8"))["genomes"]]


def grow(genomes: Sequence[Genome], images: torch.Tensor | None = None, *, seed: int = 0) -> BlockBank:
    """A bank with random weights for them: an untrained twin would give zeros, which nothing rounds."""
    bank, generator = BlockBank(), torch.Generator().manual_seed(seed)
    for genome in genomes:
        grow_bank(bank, genome, generator=generator, initialisation="random", images=images)
    return bank


def _depth(genome: Genome) -> int:
    return sum(isinstance(item, Layer) for item in genome.body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--generation", type=int, help="round whose members are taken; the last one")
    parser.add_argument("--json", type=Path, default=STORED)
    given = parser.parse_args()
    run = RunFolder.open(given.run)
    rounds = {row.generation: row for row in run.rounds()}
    number = max(rounds) if given.generation is None else given.generation
    if number not in rounds:
        raise SystemExit(f"{given.run} has rounds 0 to {max(rounds)}, got --generation {number}")
    members = rounds[number].members
    found = run.load_checkpoint("search")
    if found is None:
        raise SystemExit(f"{given.run} has no checkpoint")
    births = {birth["id"]: birth["genome"] for birth in found[0]["search"]["lineage"]}
    genomes = [births[member] for member in members]
    depths = [_depth(Genome.from_dict(genome)) for genome in genomes]
    data = {"generation": number, "members": list(members), "layers": depths, "genomes": genomes}
    given.json.write_text(json.dumps(data, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{len(genomes)} members of {min(depths)} to {max(depths)} layers")


if __name__ == "__main__":
    main()
