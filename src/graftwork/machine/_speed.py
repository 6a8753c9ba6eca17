"""Training speed of this machine, to turn a budget of time into FLOPs."""

from dataclasses import dataclass
from time import perf_counter

import torch

from graftwork.networks import Member, bind
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.execution import InputTransform
from graftwork.networks.genome import Genome, training_flops
from graftwork.training import Augmentation, BankOptimizer, BatchStream, Precision, Rules, Trainer, generator_for


@dataclass(frozen=True, slots=True)
class Speed:
    """Training FLOPs per second.

    Args:
        whole: On images of full size.
        small: On shrunk ones.
    """

    whole: float
    small: float

    def mean(self, small_share: float) -> float:
        """Over a training of which this share of the FLOPs is spent on shrunk images."""
        return 1 / ((1 - small_share) / self.whole + small_share / self.small)

    def seconds(self, start: float, stop: float, border: float) -> float:
        """Seconds from one number of FLOPs spent to another, where images are shrunk up to ``border``."""
        shrunk = max(0.0, min(stop, border) - start)
        return shrunk / self.small + (stop - start - shrunk) / self.whole

    def reach(self, start: float, seconds: float, small_share: float) -> float:
        """Number of FLOPs of a whole training that ends in so many seconds, of which ``start`` are spent."""
        total = start + seconds * self.whole
        if start >= small_share * total:
            return total
        return (seconds + start / self.small) * self.mean(small_share)


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

    def rough_seconds(self) -> float:
        """Seconds of one step, on one thread or on all that the process has, whichever is faster.

        On a busy machine several threads wait for each other, many times longer than a step takes.
        """
        before, found = torch.get_num_threads(), []
        self.step()  # prepares kernels
        try:
            for threads in {1, before}:
                torch.set_num_threads(threads)
                start = perf_counter()
                self.step()
                found.append(perf_counter() - start)
        finally:
            torch.set_num_threads(before)
        return min(found)

    def rate(self, seconds: float, *, least: int = 3) -> float:
        """Time steps, after two that warm up; return steps per second.

        Args:
            seconds: About how long to go on.
            least: Steps that are timed at least.
        """
        for _ in range(2):  # the first steps prepare kernels
            self.step()
        first, start = self.num_steps, perf_counter()
        while self.num_steps < first + least or perf_counter() - start < seconds:
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
    least: int = 3,
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
        least: Steps that are timed at least.

    Returns:
        Analytic training FLOPs per second.
    """
    network = TimedNetwork(
        genome, rules=rules, batch_size=batch_size, augmentation=augmentation, precision=precision, device=device
    )
    return network.rate(seconds, least=least) * training_flops(genome, batch_size)
