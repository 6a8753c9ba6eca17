"""How a run uses its machine: device, compiled passes, precision, threads; as asked for, or as measured here."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch

from graftwork.datasets import cache_folder
from graftwork.errors import ConfigError
from graftwork.machine._machine import Machine
from graftwork.machine._precision import measure_precision
from graftwork.machine._speed import TimedNetwork
from graftwork.machine._threads import measure_threads
from graftwork.networks.genome import Genome
from graftwork.networks.kernels import Kernels, build
from graftwork.training import Passes, Precision

_AS_ASKED = "as asked for"
HURRY = 0.25
"""Share of the usual effort below which nothing is compared or compiled."""
_HURRIED = "the budget is too short to compare"
_log = logging.getLogger(__name__)


def device_of(name: str) -> torch.device:
    """Find the device of a name.

    Raises:
        ConfigError: If it can't be used on this machine.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: expected one that works here, got {name!r} ({error}); use cpu") from error
    return device


def choose_kernels(
    passes: Literal["auto"] | Passes, device: torch.device, *, followed: Machine | None = None, effort: float = 1.0
) -> Kernels | None:
    """Build the compiled passes, where they can be wanted and had.

    Args:
        passes: What was asked for.
        device: Device that steps run on.
        followed: How an earlier run used its machine; ``None``: there is no earlier run.
        effort: Share of the usual time to spend, 0 to 1: in a hurry, nothing is compiled that nobody asked for.

    Raises:
        ConfigError: If they were asked for and can't be had.
    """
    unwanted = passes == "torch" if followed is None else followed.passes == "torch"
    if unwanted or (device.type != "cpu" and passes != "compiled"):
        return None
    hurried = effort < 1 and passes == "auto" and followed is None  # compiling takes some ten seconds
    kernels = build(cache_folder(), compiling=not hurried) if device.type == "cpu" else None
    if kernels is None and passes == "compiled":
        raise ConfigError(
            "passes: expected a CPU and a C compiler ($CC, cc, gcc or clang) that takes the package's kernels.c, got "
            "none; install one, or use passes = auto"
        )
    if kernels is None and followed is not None:
        _log.warning(
            "the run was made with compiled passes, which can't be built here: its bits may differ from now on"
        )
    return kernels


def choose_precision(
    genome: Genome,
    *,
    precision: Literal["auto"] | Precision,
    passes: Literal["auto"] | Passes,
    kernels: Kernels | None,
    timed: Callable[..., TimedNetwork],
    effort: float = 1.0,
) -> Machine:
    """Choose what to run in: as asked for, without looking at a clock, or as measured on a network of its own.

    Args:
        genome: Network to time. It should have the size that the run trains on average: a seed may be so small that
            overheads hide what larger members gain.
        precision: What was asked for; ``"auto"`` measures it.
        passes: What was asked for; with both ``"auto"``, compiled passes are kept where they are no slower.
        kernels: Compiled passes; ``None``: there are none.
        timed: Makes the network that is timed, of a genome and a ``precision``.
        effort: Share of the usual time to spend, 0 to 1; in a hurry it is float32.

    Returns:
        The choice, with as many threads as the process has now.
    """
    available: Passes = "torch" if kernels is None else "compiled"
    if precision != "auto":
        return Machine(precision, available, reasons={"precision": _AS_ASKED})
    if effort < HURRY:
        return Machine("float32", available, reasons={"precision": _HURRIED})
    network = timed(genome)
    batch = network.trainer.batches.batch(0)
    machine = measure_precision(network.member, batch, kernels=kernels, limit_seconds=0.4 * effort)
    reason = f"{machine.reasons['precision']}, with {len(genome.layers)} layers"
    machine = replace(machine, reasons={**machine.reasons, "precision": reason})
    return replace(machine, passes=available) if passes != "auto" else machine


def choose_threads(
    machine: Machine,
    genome: Genome,
    *,
    threads: int | None,
    device: torch.device,
    timed: Callable[..., TimedNetwork],
    effort: float = 1.0,
) -> Machine:
    """Choose how many threads to run on: as asked for, or as measured; at most as many as the process has now.

    Args:
        machine: What is chosen so far; its precision and the passes that are set are what is timed.
        genome: Network to time: the seed, the smallest that the run will train.
        threads: What was asked for; ``None``: measure.
        device: Device that steps run on.
        timed: Makes the network that is timed, of a genome and a ``precision``.
        effort: Share of the usual time to spend, 0 to 1.

    Returns:
        The machine with its threads, and what was measured for them. No setting of the process is changed.
    """
    if threads is not None:
        return replace(machine, threads=threads, reasons={**machine.reasons, "threads": _AS_ASKED})
    present = torch.get_num_threads()
    if device.type != "cpu":
        reason = f"torch's choice: steps run on {device}"
        return replace(machine, threads=present, reasons={**machine.reasons, "threads": reason})
    # With one thread nothing is timed.
    step = timed(genome, precision=machine.precision).step if present > 1 else lambda: None
    return measure_threads(step, machine=machine, limit_seconds=0.6 * effort)
