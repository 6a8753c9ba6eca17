"""From a config to the data, in the sizes that budget and memory allow."""

from collections.abc import Callable
from typing import Any, NamedTuple

from graftwork.machine import device_of, memory_limit
from graftwork.session._config import SearchConfig
from graftwork.session._outline import Outline, outline_of, outline_unread
from graftwork.session._problem import Problem, seed_of
from graftwork.session._sizing import Sized, flops_of, settle_batches, settle_size
from graftwork.trunks import Trunk


class Data(NamedTuple):
    """What `load_data` gives.

    Args:
        config: The options, with all sizes decided.
        problem: The data.
        notes: What a user should know, a sentence each.
    """

    config: SearchConfig
    problem: Problem
    notes: tuple[str, ...]


def load_data(
    config: SearchConfig,
    *,
    speed: float | None,
    processes: int,
    held: Any = None,
    trunk: Trunk | None = None,
    tell: Callable[[Outline], None] | None = None,
) -> Data:
    """Decide sizes, load the data, and adapt batches to budget and memory.

    Args:
        config: Options of a search.
        speed: Training FLOPs per second, roughly (see `rough_speed`); ``None``: unknown.
        processes: Processes that search together on this machine, which share its memory.
        held: Data that the program holds, which keep their size; ``None``: the config says where they are.
        trunk: The config's trunk, opened; ``None``: it is opened here, unless that would run code.
        tell: Hears the outline: before anything is decoded, where that is known. ``None``: nobody does.
    """
    flops = flops_of(config.budget, speed)
    config, sized, found = settle_size(config, flops=flops, processes=processes) if held is None else Sized(config)
    if tell is not None and found is not None:
        tell(outline_unread(config, found, speed=speed, processes=processes))
    problem = Problem.load(config, held=held, trunk=trunk)
    if tell is not None and found is None:
        tell(outline_of(config, problem, speed=speed, processes=processes))
    most = memory_limit(config.max_memory, device_of(config.device), processes=processes)
    most = problem.memory_left(most, config.recipe.batch_size)
    config, fitted = settle_batches(config, seed_of(config, problem), most, flops=flops)
    return Data(config, problem, (*sized, *fitted))
