"""Ways to use a machine's cores: one process of some threads, or several workers; each measured as it would run."""

import json
import tempfile
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from graftwork.config import SearchConfig, choose_kernels, choose_precision, device_of, shared_part
from graftwork.errors import ResourceError
from graftwork.execution import using_kernels
from graftwork.genome import Genome, num_parameters
from graftwork.runs import keep_memory
from graftwork.training import PrecisionChoice, ThreadsChoice, Throwaway, measure_threads, most_parts, part_of
from graftwork.workers import Group, average, launch, num_cores, time_exchange

__all__ = ["Way", "WorkersChoice", "choose_workers", "measure_way", "measure_workers"]

GAIN = 1.1
"""How many times as many updates workers must make to be chosen: what timing can tell from noise."""

_SECONDS = 0.7
"""About how long each of the two ways is timed for ``workers = "auto"``."""


@dataclass(frozen=True, slots=True)
class Way:
    """How fast a machine trains in one way.

    Args:
        workers: Processes, all of them at work.
        threads: Of each.
        steps_per_second: Updates of all workers together; with several, what they exchange included.
        average_seconds: Of one exchange, the sum of an update's gradients or one averaging of all blocks (a mean where
            a search has both); 0 for one worker.
    """

    workers: int
    threads: int
    steps_per_second: float
    average_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkersChoice:
    """How many workers were chosen and what was measured for it, for the run's provenance.

    Args:
        workers: 1, or as many as there are cores for.
        reason: In words.
        ways: That were measured; empty where there was nothing to compare.
        precision: That they were measured in, chosen as for a run; ``None`` where nothing was measured.
        threads: Of one process, chosen as for a run; ``None`` where nothing was measured.
    """

    workers: int
    reason: str
    ways: tuple[Way, ...] = ()
    precision: PrecisionChoice | None = None
    threads: ThreadsChoice | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; `from_dict` gives an equal choice back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "WorkersChoice":
        """From plain data, which has no tuples."""
        precision, threads = data["precision"], data["threads"]
        return cls(
            data["workers"],
            data["reason"],
            tuple(Way(**way) for way in data["ways"]),
            None if precision is None else PrecisionChoice(**precision),
            None if threads is None else ThreadsChoice.from_dict(threads),
        )


def choose_workers(config: SearchConfig, genome: Genome, batch_size: int) -> WorkersChoice:
    """Decide between one process and as many workers as there are cores for, by measuring both.

    The workers are started for it, each of them a process that has to import torch first. There are as many as cores,
    or cores by ``config.threads`` where that is set; but no more than can share a batch.

    Args:
        config: Options.
        genome: Of the seed network, which is trained throughout.
        batch_size: Images an update.

    Returns:
        Several workers where they make `GAIN` times as many updates a second as one process on the threads that it
        would choose; otherwise one.

    Raises:
        ResourceError: If a worker could not be started.
    """
    if device_of(config.device).type != "cpu":
        return WorkersChoice(1, f"steps run on {config.device}")
    cores = num_cores()
    size = min(cores // (config.threads or 1), most_parts(batch_size))
    if size < 2:
        return WorkersChoice(1, f"there is nothing to share: {cores} cores, batches of {batch_size} images")
    found = measure_workers(config, genome, batch_size=batch_size, size=size, seconds=_SECONDS)
    alone, shared = (Way(**way) for way in found["ways"])
    gain = shared.steps_per_second / alone.steps_per_second
    reason = (
        f"{shared.workers} workers of {shared.threads} make {gain:.2f} times the updates of one process of "
        f"{alone.threads}; they are chosen from {GAIN:g} times on"
    )
    return WorkersChoice.from_dict({**found, "workers": size if gain >= GAIN else 1, "reason": reason})


def measure_workers(
    config: SearchConfig,
    genome: Genome,
    *,
    batch_size: int,
    size: int,
    threads: Sequence[int] = (),
    precision: PrecisionChoice | None = None,
    seconds: float = 1.0,
) -> dict[str, Any]:
    """Start workers on this machine and time them.

    Args:
        config: Options.
        genome: Of the network that all of them train.
        batch_size: Images an update.
        size: Number of workers.
        threads: Of each worker, the numbers to time; empty: those that a run would have, after one process alone on
            the threads that it would choose.
        precision: And passes; ``None``: chosen as for a run.
        seconds: About how long each way is timed.

    Returns:
        Plain data: ``ways``, a list of what `Way` takes; ``precision`` and ``threads`` (of one process, or ``None``).

    Raises:
        ResourceError: If a worker could not be started, or was lost.
    """
    options = {
        "config": config.to_toml(),
        "genome": genome.to_json(),
        "batch_size": batch_size,
        "threads": list(threads),
        "precision": None if precision is None else precision.to_dict(),
        "seconds": seconds,
    }
    with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
        out = Path(folder) / "ways.json"
        try:
            code = launch(_measure, size, json.dumps(options), str(out))
        except ProcessRaisedException as error:
            raise ResourceError(f"workers: timing {size} of them failed; give their number instead") from error
        if code:
            raise ResourceError(f"workers: timing {size} of them ended with code {code}; give their number instead")
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def measure_way(network: Throwaway, *, seconds: float, group: Group | None = None, sync_every: int = 0) -> Way:
    """Time a network's steps on the threads that the process has, by all ranks at once.

    What ranks exchange is timed by itself. Averaging is dealt out over the steps of a stretch, so that a stretch, which
    may take long, need not be waited for.

    Args:
        network: To be trained; where batches are shared, on as many images as are this rank's.
        seconds: About how long.
        group: The ranks that measure together; ``None``: this process alone.
        sync_every: Updates of each worker between two averagings; 0: batches are shared.
    """
    threads = torch.get_num_threads()
    if group is None:
        return Way(1, threads, network.rate(seconds))
    together = group.sum_at_once(lambda: network.rate(seconds))
    if sync_every == 0:
        exchange = time_exchange(num_parameters(network.member.genome), group)
        return Way(group.size, threads, 1 / (group.size / together + exchange), exchange)
    optimizer = network.trainer.optimizer
    counts = [Counter(network.member.genome.ids)] * group.size
    average_seconds = float("inf")
    for _ in range(2):
        start = perf_counter()
        average(optimizer, counts, group)
        average_seconds = min(average_seconds, perf_counter() - start)
    stretch = sync_every * group.size
    return Way(group.size, threads, stretch / (stretch / together + average_seconds), average_seconds)


def _measure(method: str, text: str, out: str) -> None:
    """One rank."""
    keep_memory()
    most = torch.get_num_threads()
    group = Group.join(method=method)
    try:
        found = _measured(group, json.loads(text), most)
        if group.leads:
            Path(out).write_text(json.dumps(found), encoding="utf-8")
    finally:
        group.leave()


def _measured(group: Group, options: Mapping[str, Any], most: int) -> dict[str, Any]:
    """What `measure_workers` returns, on every rank."""
    config = SearchConfig.from_dict(tomllib.loads(options["config"]))
    genome, seconds = Genome.from_json(options["genome"]), options["seconds"]
    share = config.threads or torch.get_num_threads()

    def network(precision: PrecisionChoice, batch_size: int) -> Throwaway:
        recipe = config.recipe
        return Throwaway(
            genome,
            rules=recipe.rules,
            batch_size=batch_size,
            augmentation=recipe.augmentation.resolve(genome.input_shape),
            precision=precision.precision,
        )

    whole, given = options["batch_size"], options["precision"]
    shared = shared_part(config, batch_size=whole, num_workers=group.size)
    precision = None if given is None else PrecisionChoice(**given)
    kernels = choose_kernels(config, torch.device("cpu"), precision)
    found: dict[str, Any] = {"ways": [], "threads": None, "precision": given}
    if group.leads and not options["threads"]:
        torch.set_num_threads(config.threads or most)
        if precision is None:
            precision = choose_precision(config, genome, kernels, batch_size=whole, device=torch.device("cpu"))
        with using_kernels(kernels if precision.passes == "compiled" else None):
            alone = network(precision, whole)
            asked = None if config.threads is None else ThreadsChoice(config.threads, "as asked for")
            choice = asked or measure_threads(alone.step)
            torch.set_num_threads(choice.threads)
            found["ways"] += [asdict(measure_way(alone, seconds=seconds))]
        found |= {"threads": choice.to_dict(), "precision": precision.to_dict()}
    found = _told(group, found)
    precision = PrecisionChoice(**found["precision"])
    with using_kernels(kernels if precision.passes == "compiled" else None):
        for threads in options["threads"] or [share]:
            torch.set_num_threads(threads)
            ways: list[tuple[float, Way]] = []
            if shared > 0:
                images = part_of(whole, group.rank, group.size)
                mine = network(precision, images.stop - images.start)
                ways.append((shared, measure_way(mine, seconds=seconds, group=group)))
            if shared < 1:
                mine, every = network(precision, whole), config.sync_every
                ways.append((1 - shared, measure_way(mine, seconds=seconds, group=group, sync_every=every)))
            found["ways"] += [asdict(_mixed(ways))]
    return found


def _mixed(ways: Sequence[tuple[float, Way]]) -> Way:
    """What a search comes to that makes these parts of its updates in these ways."""
    _, first = ways[0]
    return Way(
        first.workers,
        first.threads,
        1 / sum(part / way.steps_per_second for part, way in ways),
        sum(part * way.average_seconds for part, way in ways),
    )


def _told(group: Group, found: dict[str, Any]) -> dict[str, Any]:
    """What rank 0 has found so far, on every rank."""
    if group.leads:
        group.send(found)
        return found
    return group.receive()[0]
