"""Training speed of this machine, to turn a budget of time into FLOPs."""

from collections.abc import Iterator
from itertools import count
from time import perf_counter

import torch

from graftwork.bank import BlockBank, grow_bank
from graftwork.execution import InputTransform
from graftwork.genome import Genome, training_flops
from graftwork.member import bind
from graftwork.training._augment import Augmentation
from graftwork.training._batches import BatchStream
from graftwork.training._optimizer import BankOptimizer
from graftwork.training._precision import Precision
from graftwork.training._rules import Rules
from graftwork.training._seeding import generator_for
from graftwork.training._step import Trainer

__all__ = ["calibrate_speed"]


def _throwaway_steps(
    genome: Genome, rules: Rules, batch_size: int, augmentation: Augmentation | None, precision: Precision
) -> Iterator[float]:
    """Losses of training steps of a network of its own, on noise."""
    channels, height, width = genome.input_shape
    generator = generator_for("speed")
    images = torch.randint(0, 256, (batch_size, height, width, channels), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, genome.num_classes, (batch_size,), generator=generator)
    transform = InputTransform((0.5,) * channels, (0.25,) * channels)
    bank = BlockBank()
    grow_bank(bank, genome, generator=generator, images=transform(images))
    batches = BatchStream(
        images,
        labels,
        torch.arange(batch_size),
        batch_size=batch_size,
        seed=0,
        transform=transform,
        augmentation=augmentation,
    )
    # rate 0: noise must not make the loss diverge, and the arithmetic costs the same
    trainer = Trainer(BankOptimizer(bank, rules), batches=batches, schedule=lambda progress: 0.0, precision=precision)
    member = bind(genome, bank)
    for number in count():
        yield trainer.step(member, number, 0.0)


def calibrate_speed(
    genome: Genome,
    *,
    rules: Rules,
    batch_size: int,
    augmentation: Augmentation | None = None,
    precision: Precision = "float32",
    seconds: float = 1.5,
) -> float:
    """Train a throw-away copy of a network on noise and time it: batches, passes and optimizer, as in earnest.

    Args:
        genome: The network to train; the seed, or something of its size.
        rules: Of the recipe.
        batch_size: Of the recipe.
        augmentation: Of the recipe.
        precision: As chosen for the run.
        seconds: About how long to measure, after warming up.

    Returns:
        Analytic training FLOPs per second.
    """
    steps = _throwaway_steps(genome, rules, batch_size, augmentation, precision)
    for _ in range(2):  # the first steps prepare kernels
        next(steps)
    num_steps, start = 0, perf_counter()
    while num_steps < 3 or perf_counter() - start < seconds:
        next(steps)
        num_steps += 1
    return num_steps * training_flops(genome, batch_size) / (perf_counter() - start)
