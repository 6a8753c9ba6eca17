"""How a run uses its machine: device, compiled passes, precision, threads; as asked for, or as measured here."""

import logging
from dataclasses import replace

import torch
from torch import Tensor

from graftwork.config._config import SearchConfig
from graftwork.datasets import cache_folder
from graftwork.errors import ConfigError
from graftwork.genome import Genome
from graftwork.kernels import Kernels, build
from graftwork.member import Member
from graftwork.training import (
    Passes,
    PrecisionChoice,
    ThreadsChoice,
    Throwaway,
    Trainer,
    measure_precision,
    measure_threads,
)

__all__ = ["choose_kernels", "choose_precision", "choose_threads", "device_of"]

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
    config: SearchConfig, network: Member, batch: tuple[Tensor, Tensor], kernels: Kernels | None
) -> PrecisionChoice:
    """What to run in: measured, or as asked for; whoever asks for a precision depends on no clock.

    Args:
        config: As it asks for it.
        network: A throw-away one of the kind that will be trained, on its device.
        batch: Of training data.
        kernels: Compiled passes; ``None``: there are none.
    """
    passes: Passes = "torch" if kernels is None else "compiled"
    if config.precision != "auto":
        return PrecisionChoice(config.precision, 0.0, None, "as asked for", passes)  # type: ignore[arg-type]
    choice = measure_precision(network, batch, kernels=kernels)
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
