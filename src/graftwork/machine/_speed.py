"""Training speed of this machine, to turn a budget of time into FLOPs."""

from time import perf_counter

import torch

from graftwork.networks import Member, bind
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.execution import InputTransform
from graftwork.networks.genome import Genome, training_flops
from graftwork.training import Augmentation, BankOptimizer, BatchStream, Precision, Rules, Trainer, generator_for


class TimedNetwork:
    """A network made to be timed: it trains on noise, by the batches, passes and optimizer of a run.

    Its learning rate is 0: noise must not make the loss diverge, and the arithmetic is the same. It draws from a
    generator of its own.

    Args:
        genome: The network to train; the seed, or something of its size.
        rules: Optimizer and rates by parameter role, as in the recipe.
        batch_size: Images in a step.
        augmentation: How images are changed, as in the recipe; ``None``: not at all.
        precision: Type of the factors of products.
        device: Device that it runs on.
    """

    def __init__(
        self,
        genome: Genome,
        *,
        rules: Rules,
        batch_size: int,
        augmentation: Augmentation | None = None,
        precision: Precision = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        channels, height, width = genome.input_shape
        generator = generator_for("speed")
        images = torch.randint(0, 256, (batch_size, height, width, channels), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, genome.num_classes, (batch_size,), generator=generator)
        transform = InputTransform((0.5,) * channels, (0.25,) * channels)
        bank = BlockBank()
        grow_bank(bank, genome, generator=generator, images=transform(images))
        bank.to(device=torch.device(device))
        batches = BatchStream(
            images,
            labels,
            torch.arange(batch_size),
            batch_size=batch_size,
            seed=0,
            transform=transform,
            augmentation=augmentation,
            device=torch.device(device),
        )
        self.trainer = Trainer(
            BankOptimizer(bank, rules), batches=batches, schedule=lambda progress: 0.0, precision=precision
        )
        self.member: Member = bind(genome, bank)
        self.num_steps = 0

    def step(self) -> float:
        """Make the next step and return its loss."""
        loss = self.trainer.step(self.member, self.num_steps, 0.0)
        self.num_steps += 1
        return loss

    def rate(self, seconds: float) -> float:
        """Time steps for about so many seconds, at least three after two that warm up; return steps per second."""
        for _ in range(2):  # the first steps prepare kernels
            self.step()
        first, start = self.num_steps, perf_counter()
        while self.num_steps < first + 3 or perf_counter() - start < seconds:
            self.step()
        return (self.num_steps - first) / (perf_counter() - start)


def calibrate_speed(
    genome: Genome,
    *,
    rules: Rules,
    batch_size: int,
    augmentation: Augmentation | None = None,
    precision: Precision = "float32",
    device: torch.device | str = "cpu",
    seconds: float = 1.5,
) -> float:
    """Time the training of a network on noise, with batches, passes and optimizer as in a run.

    Args:
        genome: The network to train; the seed, or something of its size.
        rules: Optimizer and rates by parameter role, as in the recipe.
        batch_size: Images in a step.
        augmentation: How images are changed, as in the recipe; ``None``: not at all.
        precision: Type of the factors of products.
        device: Device that it runs on.
        seconds: About how long to measure, after warming up.

    Returns:
        Analytic training FLOPs per second.
    """
    network = TimedNetwork(
        genome, rules=rules, batch_size=batch_size, augmentation=augmentation, precision=precision, device=device
    )
    return network.rate(seconds) * training_flops(genome, batch_size)
