"""The poster's zero-initialised network: a whole network whose output layer is an R2R block starts at exactly zero."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from experiments._common import Experiment, Row, curve_bands, mean_and_spread
from experiments._training import set_up, train_steps, validation_accuracy
from graftwork.networks import bind
from graftwork.networks.genome import Head, seed_genome
from graftwork.session import Problem, SearchConfig

FULL_STEPS = 2000
EVERY = 10
KINDS = ("zero-initialised", "ordinary")


def _twin_distance(tensor: torch.Tensor) -> float:
    """‖first half − second half‖ / ‖both‖ of the rows: 0 while the twins are twins."""
    first, second = tensor.detach().chunk(2)
    return float((first - second).norm() / tensor.detach().norm())


def run_seed(problem: Problem, config: SearchConfig, scale: float, note: Callable[[str], None]) -> Row:
    """Train both networks on the same batches."""
    steps = max(2 * EVERY, round(FULL_STEPS * scale) // EVERY * EVERY)
    classes = len(problem.dataset.class_names)
    genome = seed_genome("poster", problem.input_shape, classes).replace(head=Head("r2r", hidden_features=128))
    found: Row = {"steps": steps}
    for kind in KINDS:
        twin = kind == KINDS[0]
        setup = set_up(problem, config, genome, steps=steps, initialisation="twin" if twin else "random")
        entry = setup.population.bank[genome.head.id]
        if not twin:  # the ordinary network: the same shapes, nothing cancels
            generator = torch.Generator().manual_seed(config.seed)
            for name in ("hidden", "weight"):
                std = float(entry[name].detach().std())
                entry[name].data.uniform_(-(3**0.5) * std, 3**0.5 * std, generator=generator)
        member = next(iter(setup.population))
        x, _ = setup.trainer.batches.batch(0)
        with torch.no_grad():
            first = float(bind(genome, setup.population.bank, form="reference")(x).abs().max())
        distances = [_twin_distance(entry["hidden"])]

        def watch(step: int, loss: float, entry: Any = entry, distances: list[float] = distances) -> None:
            if step <= EVERY or step % EVERY == 0:
                distances.append(_twin_distance(entry["hidden"]))

        losses = train_steps(setup, member, steps, total=steps, watch=watch)
        smooth = [sum(losses[i : i + EVERY]) / EVERY for i in range(0, steps, EVERY)]
        found[kind] = {
            "largest_first_output": first,
            "loss": smooth,
            "twin_distance": distances,
            "validation_accuracy": validation_accuracy(setup, [member])[0],
        }
        note(f"  {kind}: first output {first:.3g}, validation {found[kind]['validation_accuracy']:.4f}")
    return found


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """First outputs, final accuracies, and how far the twins are apart after ten steps."""
    return {
        kind: {
            "largest_first_output": max(row[kind]["largest_first_output"] for row in rows),
            "validation_accuracy": mean_and_spread([row[kind]["validation_accuracy"] for row in rows]),
            "twin_distance_after_10_steps": mean_and_spread([row[kind]["twin_distance"][10] for row in rows]),
            "final_loss": mean_and_spread([row[kind]["loss"][-1] for row in rows]),
        }
        for kind in KINDS
    }


def draw(rows: Sequence[Row], out: Path) -> None:
    """Losses of both, and the distance of the twins."""
    from graftwork.reports import Curve, curves_figure, write_figure

    steps = [EVERY * (i + 1) for i in range(len(rows[0][KINDS[0]]["loss"]))]
    loss = [Curve(kind, steps, *curve_bands([row[kind]["loss"] for row in rows])) for kind in KINDS]
    figure = curves_figure(loss, xlabel="updates", ylabel="training loss", title="Zero-initialised network")
    write_figure(figure, out / "loss")
    early = list(range(11))
    twins = [Curve(KINDS[0], early, *curve_bands([row[KINDS[0]]["twin_distance"][:11] for row in rows]))]
    figure = curves_figure(twins, xlabel="updates", ylabel="distance of twin halves", title="Symmetry breaks by itself")
    write_figure(figure, out / "twins")


ZERO_INIT = Experiment(
    "zero-init",
    "Does a network that starts at exactly zero train as well as an ordinary one, and do its twin halves separate?",
    run_seed,
    summarise,
    draw,
)
