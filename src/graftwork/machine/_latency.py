"""How long networks take to classify one image, and a batch: measured, never computed."""

import re
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from graftwork.errors import ConfigError
from graftwork.networks import bind
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.execution import using_kernels
from graftwork.networks.genome import Genome
from graftwork.training import generator_for

LATENCY_BATCH = 32
"""Images in the batch that is timed beside a single image."""

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
SECONDS = 0.03
"""About how long passes are timed, after warming up."""
_FEWEST, _MOST_SECONDS = 7, 0.5


def parse_latency(text: object) -> float:
    """Read ``5ms``, ``800us`` or ``0.1s``: seconds.

    Raises:
        ConfigError: If it is none of these, or not greater than 0.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(us|ms|s)\s*", str(text).lower()) if len(str(text)) < 30 else None
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"max_latency: expected a time such as 5ms, 800us or 0.1s, got {text!r}; give one")
    return float(match[1]) * _UNITS[match[2]]


@torch.inference_mode()
def time_passes(run: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Time passes in float32 by torch's own operations, as exported networks run, with the threads of the process.

    Args:
        run: Function that classifies: a member in evaluation mode, say.
        images: Normalised images [B, C, H, W], on the device to be timed.

    Returns:
        Median seconds of a pass: of at least seven, or of fewer where they take long.
    """

    def once() -> float:
        start = perf_counter()
        run(images)
        if images.device.type != "cpu":
            torch.accelerator.synchronize()
        return perf_counter() - start

    with using_kernels(None):
        once()  # the first pass prepares kernels
        found = [once()]
        while sum(found) < (_MOST_SECONDS if len(found) < _FEWEST else SECONDS):
            found.append(once())
    return median(found)


def noise_images(genome: Genome, count: int, device: torch.device) -> Tensor:
    """Images [count, C, H, W] to time a network with, channels last in memory as a run's are."""
    images = torch.randn(count, *genome.input_shape, generator=generator_for("latency"))
    return images.to(device, memory_format=torch.channels_last)


class Latencies:
    """Measured seconds of one image by genome; each genome is measured once, so that decisions can be repeated.

    Args:
        device: Device to time on.
        known: Seconds that were measured before, by the genome's id.
    """

    def __init__(self, device: torch.device, known: Mapping[str, float] | None = None) -> None:
        self._device = device
        self.known = dict(known or {})
        self.store: Callable[[Mapping[str, float]], None] = lambda known: None
        """Stores all that is known; called before a new measurement is used."""

    def __call__(self, genome: Genome) -> float:
        """Seconds that a network of this genome takes for one image, as measured at the first call."""
        if genome.id not in self.known:
            self.known[genome.id] = round(self._measure(genome), 7)
            self.store(self.known)
        return self.known[genome.id]

    def _measure(self, genome: Genome) -> float:
        bank = BlockBank()
        grow_bank(bank, genome, generator=generator_for("latency"), images=noise_images(genome, 8, torch.device("cpu")))
        bank.to(device=self._device)
        member = bind(genome, bank).to(self._device).eval()
        return time_passes(member, noise_images(genome, 1, self._device))
