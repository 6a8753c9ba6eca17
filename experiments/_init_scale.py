"""Scale of new weights in mid-training: matched to the weights beside them, or He et al. (2015)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments._common import Experiment, Row, curve_bands, mean_and_spread
from experiments._training import set_up, train_steps, validation_accuracy
from graftwork.evolution.transforms import R2RDeepen, R2RWiden, compose
from graftwork.networks import bind
from graftwork.networks.bank import grow_bank
from graftwork.networks.genome import seed_genome
from graftwork.session import Problem, SearchConfig

FULL_STEPS = 4000
WINDOW = 20
KINDS = ("matched", "He")


def run_seed(problem: Problem, config: SearchConfig, scale: float, note: Callable[[str], None]) -> Row:
    """Train h_i, widen every layer and deepen once, train on; the same batches and draws for both scales."""
    half = max(5 * WINDOW, round(FULL_STEPS * scale / 2) // WINDOW * WINDOW)
    genome = seed_genome("poster", problem.input_shape, len(problem.dataset.class_names))
    layers = [step.position for step in genome.steps() if hasattr(step.item, "blocks")]
    growth = compose(*(R2RWiden(p) for p in layers), R2RDeepen(1))(genome, rng=np.random.default_rng(config.seed))
    found: Row = {"steps": 2 * half}
    for kind in KINDS:
        setup = set_up(problem, config, genome, steps=2 * half)
        bank, parent = setup.population.bank, next(iter(setup.population))
        before = train_steps(setup, parent, half, total=2 * half)
        generator = torch.Generator().manual_seed(config.seed)
        grow_bank(bank, growth.child, generator=generator, match_scale=kind == KINDS[0])
        child = bind(growth.child, bank)
        stds = {b: float(bank[b]["filter"].detach().std()) for b in growth.child.ids if "filter" in bank[b]}
        after = train_steps(setup, child, half, total=2 * half)
        losses = before + after
        level = float(np.mean(before[-WINDOW:]))
        found[kind] = {
            "loss": [float(np.mean(losses[i : i + WINDOW])) for i in range(0, len(losses), WINDOW)],
            "loss_before": level,
            "largest_rise": max(float(np.mean(after[i : i + WINDOW])) for i in range(0, half, WINDOW)) - level,
            "new_std": float(np.mean([stds[b] for b in growth.new_blocks])),
            "old_std": float(np.mean([s for b, s in stds.items() if b not in growth.new_blocks])),
            "validation_accuracy": validation_accuracy(setup, [child])[0],
        }
        note(f"  {kind}: rise {found[kind]['largest_rise']:.3f}, validation {found[kind]['validation_accuracy']:.4f}")
    return found


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Rise of the loss after the growth, scales, and final accuracy."""
    keys = ("loss_before", "largest_rise", "new_std", "old_std", "validation_accuracy")
    return {kind: {key: mean_and_spread([row[kind][key] for row in rows]) for key in keys} for kind in KINDS}


def draw(rows: Sequence[Row], out: Path) -> None:
    """Losses through the growth."""
    from graftwork.reports import Curve, curves_figure, write_figure

    steps = [WINDOW * (i + 1) for i in range(len(rows[0][KINDS[0]]["loss"]))]
    series = [Curve(kind, steps, *curve_bands([row[kind]["loss"] for row in rows])) for kind in KINDS]
    write_figure(
        curves_figure(series, xlabel="updates", ylabel="training loss", title="Growth at half time"), out / "loss"
    )


INIT_SCALE = Experiment(
    "init-scale",
    "Does it matter whether new weights are matched to the scale of the weights beside them?",
    run_seed,
    summarise,
    draw,
)
