"""A tiny population: two members that share a first layer, each with a layer and head-free rest of its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from graftwork.networks import Member, bind
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.execution import InputTransform
from graftwork.networks.genome import Block, Genome, Head, Layer, Pool
from graftwork.training import Augmentation, BankOptimizer, BatchStream, Rule, Rules, Trainer, constant, same_rule
from graftwork.typing import BlockId

TRANSFORM = InputTransform((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

ADAM = Rule("adam", 3e-3, weight_decay=1e-2)
MUON_RESET = Rule("muon", 0.02, momentum=0.6, variant="norm-reset", num_iterations=3)
RULES: dict[str, Rules] = {
    "adam": same_rule(ADAM),
    "adamw": same_rule(Rule("adam", 3e-3, weight_decay=1e-2, decoupled=True)),
    "sgd": same_rule(Rule("sgd", 0.05, weight_decay=1e-2)),
    "sgd plain": same_rule(Rule("sgd", 0.05, momentum=0.0)),
    "sgd decoupled": same_rule(Rule("sgd", 0.05, weight_decay=1e-2, decoupled=True)),
    "muon scaled": {**same_rule(ADAM), "filter": Rule("muon", 0.02, weight_decay=0.1), "bias": Rule("sgd", 0.01)},
    "muon norm-reset": {**same_rule(Rule("sgd", 0.05)), "filter": MUON_RESET, "head": ADAM},
}


def layer(name: str, out_channels: int, *, kernel_size: int = 3, hidden: int = 6) -> Layer:
    return Layer(out_channels, (Block(BlockId(name), kernel_size, hidden, 0, out_channels),))


def genome(*layers: Layer, head: str = "head") -> Genome:
    first, *rest = layers
    return Genome((3, 8, 8), 4, (first, Pool("max", 2), *rest), head=Head("linear", BlockId(head), 0, "avg"))


ROOT = layer("root", 6)
LEFT = genome(ROOT, layer("left", 8), head="head-left")
RIGHT = genome(ROOT, layer("right", 8, kernel_size=5, hidden=4), head="head-right")


def images(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random uint8 images [count, 8, 8, 3] and classes 0 to 3 that their brightness tells."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    noise = torch.randint(0, 64, (count, 8, 8, 3), generator=generator)
    return (noise + 64 * labels[:, None, None, None]).to(torch.uint8), labels


def bank_of(*genomes: Genome, seed: int = 0) -> BlockBank:
    bank = BlockBank()
    for one in genomes:
        grow_bank(bank, one, generator=torch.Generator().manual_seed(seed))
    return bank


def stream(seed: int = 0, count: int = 96, batch_size: int = 16) -> BatchStream:
    data, labels = images(count)
    indices = torch.arange(count)
    augmentation = Augmentation("random", 1)
    return BatchStream(
        data, labels, indices, batch_size=batch_size, seed=seed, augmentation=augmentation, transform=TRANSFORM
    )


@dataclass
class Setting:
    bank: BlockBank
    members: tuple[Member, ...]
    trainer: Trainer

    @property
    def optimizer(self) -> BankOptimizer:
        return self.trainer.optimizer

    def run(self, numbers: range, *, only: int | None = None) -> list[float]:
        """Train the members in turn (or one alone)."""
        chosen = [self.members[number % len(self.members) if only is None else only] for number in numbers]
        return [self.trainer.step(member, number, 0.0) for member, number in zip(chosen, numbers, strict=True)]

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of every weight and optimizer slot."""
        slots, _ = self.optimizer.state()
        return {key: value.clone() for key, value in {**self.bank.state(), **slots}.items()}


def setting(rules: Rules, *genomes: Genome, seed: int = 0, bank: BlockBank | None = None) -> Setting:
    chosen = genomes or (LEFT, RIGHT)
    owner = bank_of(*chosen, seed=seed) if bank is None else bank
    trainer = Trainer(BankOptimizer(owner, rules), batches=stream(seed), schedule=constant())
    return Setting(owner, tuple(bind(one, owner) for one in chosen), trainer)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
