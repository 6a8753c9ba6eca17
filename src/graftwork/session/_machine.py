"""How a run uses its machine: device, compiled passes, precision, threads; as asked for, or as measured here."""

import logging
from dataclasses import replace

import torch

from graftwork.datasets import cache_folder
from graftwork.errors import ConfigError
from graftwork.machine import PrecisionChoice, ThreadsChoice, Throwaway, measure_precision, measure_threads
from graftwork.networks.genome import Genome
from graftwork.networks.kernels import Kernels, build
from graftwork.session._config import SearchConfig
from graftwork.session._growth import typical_genome
from graftwork.training import Passes, Trainer

_log = logging.getLogger(__name__)


def device_of(name: str) -> torch.device:
    """The device of a name.

    Raises:
        ConfigError: If there is none.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: {name!r} can't be used here: {error}; use cpu") from error
    return device


def choose_kernels(
    config: SearchConfig, device: torch.device, precision: PrecisionChoice | None = None
) -> Kernels | None:
    """The compiled passes, where they can be wanted and had.

    Args:
        config: As it asks for them.
        device: That steps run on.
        precision: Of an earlier run, which is followed; ``None``: there is none.

    Raises:
        ConfigError: If they were asked for and can't be had.
    """
    unwanted = config.passes == "torch" if precision is None else precision.passes == "torch"
    if unwanted or (device.type != "cpu" and config.passes != "compiled"):
        return None
    kernels = build(cache_folder()) if device.type == "cpu" else None
    if kernels is None and config.passes == "compiled":
        raise ConfigError(
            "passes: compiled passes need a CPU and a C compiler ($CC, cc, gcc or clang) that takes the package's "
            "kernels.c; install one, or use passes = auto"
        )
    if kernels is None and precision is not None:
        _log.warning(
            "the run was made with compiled passes, which can't be built here: its bits may differ from now on"
        )
    return kernels


def choose_precision(
    config: SearchConfig, genome: Genome, kernels: Kernels | None, *, batch_size: int, device: torch.device
) -> PrecisionChoice:
    """What to run in: measured, or as asked for; whoever asks for a precision depends on no clock.

    What is timed is a throw-away network of the size that the search trains on average (`typical_genome`): its seed may
    be so small that overheads hide what larger members gain.

    Args:
        config: As it asks for it.
        genome: Of the seed network.
        kernels: Compiled passes; ``None``: there are none.
        batch_size: Images a step.
        device: That steps run on.
    """
    passes: Passes = "torch" if kernels is None else "compiled"
    if config.precision != "auto":
        return PrecisionChoice(config.precision, 0.0, None, "as asked for", passes)  # type: ignore[arg-type]
    typical = typical_genome(config, genome)
    network = Throwaway(typical, rules=config.recipe.rules, batch_size=batch_size, device=device)
    choice = measure_precision(network.member, network.trainer.batches.batch(0), kernels=kernels)
    choice = replace(choice, reason=f"{choice.reason}, with {len(typical.layers)} layers")
    return replace(choice, passes=passes) if config.passes != "auto" else choice


def choose_threads(config: SearchConfig, genome: Genome, trainer: Trainer) -> ThreadsChoice:
    """How many threads to run on: as asked for, or measured; at most as many as the process has now.

    The step that is timed is that of the seed network, the smallest that the run will train, on full images, as
    ``trainer`` would make it, with the passes that are set. No weight and no random stream of the run is touched.

    Args:
        config: As it asks for them.
        genome: Of the seed network.
        trainer: Of the run.
    """
    if config.threads is not None:
        return ThreadsChoice(config.threads, "as asked for")
    if device_of(config.device).type != "cpu":
        return ThreadsChoice(torch.get_num_threads(), f"torch's choice: steps run on {config.device}")
    if torch.get_num_threads() == 1:
        return measure_threads(lambda: None)
    network = Throwaway(
        genome,
        rules=config.recipe.rules,
        batch_size=trainer.batch_size,
        augmentation=trainer.batches.augmentation,
        precision=trainer.precision,
    )
    return measure_threads(network.step)
