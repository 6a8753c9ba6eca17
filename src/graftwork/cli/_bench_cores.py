"""Threads x workers of ``graftwork bench``: steps per second of all that the machine's cores can be used for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftwork.genome import Genome
    from graftwork.training import Recipe

__all__ = ["core_lines", "core_rows"]


def core_rows(
    genome: "Genome",
    recipe: "Recipe",
    batch_size: int,
    kernels: dict[str, Any],
    fastest: dict[str, Any],
    *,
    cores: int | None,
    seconds: float,
) -> list[dict[str, Any]]:
    """One row for each number of workers and threads that the cores suffice for, in the network's fastest way.

    Args:
        genome: Of the network.
        recipe: Whose rules train it.
        batch_size: Images an update.
        kernels: Name of passes → kernels.
        fastest: Row of the network's steps: precision and passes.
        cores: To be used; ``None``: all.
        seconds: About how long each measurement takes.
    """
    from dataclasses import asdict

    import torch

    from graftwork.config import SearchConfig
    from graftwork.execution import using_kernels
    from graftwork.training import PrecisionChoice, Throwaway
    from graftwork.ways import Way, measure_way, measure_workers
    from graftwork.workers import num_cores

    most, ways, before = cores or num_cores(), list[Way](), torch.get_num_threads()
    with using_kernels(kernels[fastest["passes"]]):
        for threads in _powers(most):
            torch.set_num_threads(threads)
            network = Throwaway(
                genome,
                rules=recipe.rules,
                batch_size=batch_size,
                augmentation=recipe.augmentation.resolve(genome.input_shape),
                precision=fastest["precision"],
            )
            ways.append(measure_way(network, seconds=seconds))
    torch.set_num_threads(before)
    config = SearchConfig(recipe=recipe)
    precision = PrecisionChoice(fastest["precision"], 0.0, None, "the fastest", fastest["passes"])
    for workers in _powers(most)[1:]:
        found = measure_workers(
            config,
            genome,
            batch_size=batch_size,
            size=workers,
            threads=_powers(most // workers),
            precision=precision,
            seconds=seconds,
        )
        ways += [Way(**way) for way in found["ways"]]
    names = {name: fastest[name] for name in ("network", "precision", "passes")}
    return [{**names, **asdict(way)} for way in ways]


def _powers(most: int) -> tuple[int, ...]:
    """Powers of two up to a number, and the number."""
    return tuple(sorted({*(2**power for power in range(most.bit_length())), most}))


def core_lines(rows: list[dict[str, Any]]) -> list[str]:
    """A table for each network: a line a number of workers, a column a number of threads of each."""
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == network]
        columns = sorted({row["threads"] for row in mine})
        lines.append(
            f"steps/s of {network} in {mine[0]['precision']}, by workers and threads of each (their exchange included)"
        )
        lines.append("  workers " + "".join(f"{count:>6} thread{'s' if count > 1 else ' '}" for count in columns))
        for workers in sorted({row["workers"] for row in mine}):
            rates = {row["threads"]: row["steps_per_second"] for row in mine if row["workers"] == workers}
            cells = (f"{rates[count]:14.2f}" if count in rates else f"{'-':>14}" for count in columns)
            lines.append(f"  {workers:>7} " + "".join(cells))
    return lines
