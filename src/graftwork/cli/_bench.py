"""``graftwork bench``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graftwork.cli import _options as options
from graftwork.cli._app import app, emit, tell
from graftwork.cli._panels import PanelCommand
from graftwork.errors import InputError

if TYPE_CHECKING:
    from graftwork.networks.genome import Genome


@app.command(cls=PanelCommand)
def bench(
    target: Annotated[
        str,
        typer.Argument(help="A seed's name (poster, base, default), a genome's or a member's JSON, or a run folder."),
    ] = "default",
    recipe: options.Recipe = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images an update. \\[default: the recipe's]")] = None,
    passes: options.Passes = None,
    device: options.Device = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch. \\[default: torch's choice]")] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long each measurement takes, about.")] = 1.0,
    as_json: options.Json = False,
) -> None:
    """Show what this machine does at best, and how fast it trains a network in each precision.

    Shares are of the larger of the two peaks, and count the operations of products and convolutions only.
    """
    import torch

    from graftwork.machine import device_of, keep_memory
    from graftwork.runs import machine
    from graftwork.training import make_recipe

    if threads is not None:
        if threads < 1:
            raise InputError(f"--threads: expected an integer >= 1, got {threads}")
        torch.set_num_threads(threads)
    keep_memory()
    place = str(device_of(device or "cpu"))
    chosen = make_recipe(recipe or "default")
    size = batch_size or chosen.batch_size
    kernels_by_passes = _kernels_by_passes(passes) if place == "cpu" else _no_kernels(passes)
    rows = [
        row
        for name, genome in _genomes(target)
        for row in _rows(name, genome, chosen, size, kernels_by_passes, seconds, place)
    ]
    peaks = [row.pop("peak") for row in rows]
    found: dict[str, Any] = {
        "machine": machine(place),
        "batch_size": size,
        "peaks": {p["precision"]: p for p in peaks},
        "steps": rows,
    }
    if as_json:
        emit(found)
        return
    on = f"{found['machine']['processor']}, {found['machine']['threads']} threads"
    tell(f"{on if place == 'cpu' else found['machine']['device']}, batches of {size}")
    for peak in found["peaks"].values():
        product, convolution = peak["product"] / 1e9, peak["convolution"] / 1e9
        tell(f"  {peak['precision']:<9} product {product:,.0f} GFLOP/s, convolution {convolution:,.0f} GFLOP/s")
    for row in rows:
        tell(
            f"  {row['network']:<12} {row['precision']:<9} {row['passes']:<9} {row['steps_per_second']:8.2f} steps/s  "
            f"{row['flops_per_second'] / 1e9:8,.0f} GFLOP/s  {row['share_of_peak']:6.1%} of peak"
        )


def _kernels_by_passes(passes: str | None) -> dict[str, Any]:
    """Build the kernels of the passes that were asked for and can be had, by the name of the passes."""
    from graftwork.datasets import cache_folder
    from graftwork.networks.kernels import build

    if passes not in (None, "auto", "compiled", "torch"):
        raise InputError(f"--passes: expected auto, compiled or torch, got {passes!r}")
    found: dict[str, Any] = {} if passes == "compiled" else {"torch": None}
    kernels = None if passes == "torch" else build(cache_folder())
    if kernels is not None:
        found["compiled"] = kernels
    if not found:
        raise InputError(
            "--passes compiled: expected a C compiler that takes the package's kernels.c, got none; install one, or "
            "use --passes torch"
        )
    return found


def _no_kernels(passes: str | None) -> dict[str, Any]:
    if passes not in (None, "auto", "torch"):
        raise InputError(f"--passes: expected torch on another device than the CPU, got {passes!r}; leave it out")
    return {"torch": None}


def _rows(
    name: str,
    genome: "Genome",
    recipe: Any,
    batch_size: int,
    kernels_by_passes: dict[str, Any],
    seconds: float,
    device: str,
) -> list[dict[str, Any]]:
    from typing import get_args

    from graftwork.machine import calibrate_speed, measure_peak
    from graftwork.networks.execution import using_kernels
    from graftwork.networks.genome import training_flops
    from graftwork.training import Precision

    rows = []
    augmentation = recipe.augmentation.resolve(genome.input_shape)
    for precision in get_args(Precision):
        peak = measure_peak(precision, seconds=min(seconds, 0.5), device=device)
        for passes, kernels in kernels_by_passes.items():
            with using_kernels(kernels):
                speed = calibrate_speed(
                    genome,
                    rules=recipe.rules,
                    batch_size=batch_size,
                    augmentation=augmentation,
                    precision=precision,
                    device=device,
                    seconds=seconds,
                )
            rows.append(
                {
                    "network": name,
                    "precision": precision,
                    "passes": passes,
                    "steps_per_second": speed / training_flops(genome, batch_size),
                    "flops_per_second": speed,
                    "share_of_peak": speed / peak.best,
                    "peak": peak.to_dict(),
                }
            )
    return rows


def _genomes(target: str) -> list[tuple[str, "Genome"]]:
    """Name and genome of what is to be measured: of a run its survivors."""
    from graftwork._files import parse_json, read_named
    from graftwork.networks.genome import SEEDS, Genome, seed_genome
    from graftwork.runs import RunFolder

    if target in SEEDS:
        return [(target, seed_genome(target, (3, 32, 32), 10))]
    path = Path(target)
    if (path / "config.toml").is_file():
        run = RunFolder.open(path)
        if not run.finished:
            raise InputError(f"{path}: the run is not finished; finish it with: graftwork search --resume {path}")
        names = [entry["id"] for entry in run.result()["survivors"]]
        return [(name, Genome.from_dict(run.read_json(f"members/{name}.json")["genome"])) for name in names]
    if not path.is_file():
        raise InputError(f"{target}: expected {', '.join(SEEDS)}, the JSON file of a genome or member, or a run folder")
    data = parse_json(read_named(path), str(path))
    return [(path.stem, Genome.from_dict(data.get("genome", data) if isinstance(data, dict) else data))]
