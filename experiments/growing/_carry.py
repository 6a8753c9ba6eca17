"""Loss through a growth in the middle of training, with and without the optimizer's state."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from experiments._common import Row, curve_bands, mean_and_spread, spread_text
from experiments.growing._families import FAMILIES, deepen_to
from experiments.growing._grid import Cell, GridExperiment, Setting, Table, rows_with
from experiments.growing._learner import Learner
from experiments.growing._widths import build, grow, task_of
from graftwork.surgery import widen_all
from graftwork.training import generator_for

BEFORE, AFTER, WARMUP = 400, 100, 30
"""Updates before and after the growth at scale 1; updates of warm-up."""
WINDOW, EARLY = 50, 20
"""Updates before the growth whose changes of the held-out loss are the noise of a step; updates after it watched one
by one."""
VARIANTS = {
    "no growth": (None, True),
    "r2r": ("r2r", True),
    "r2r, optimizer reset": ("r2r", False),
    "random-padding": ("random-padding", True),
}
"""Name → how new units are filled (None: nothing grows), whether the optimizer is carried."""


@dataclass(frozen=True)
class Subject:
    """A model to grow.

    Args:
        learner: Setting and seed → what is trained.
        grow: Learner, method, optimizer to carry and generator → grows the model in place; returns the gap.
        examples: Number of examples for the held-out loss after every update.
    """

    learner: Callable[[Setting, int], Learner]
    grow: Callable[[Learner, str, torch.optim.Optimizer | None, torch.Generator], float]
    examples: int


def _gpt(setting: Setting, seed: int) -> Learner:
    family = FAMILIES["gpt"]
    model = family.build(setting, family.depths[-2], seed)
    return Learner(model, family.task(setting, seed), precision=setting.precision)


def _grow_gpt(
    learner: Learner, method: str, optimizer: torch.optim.Optimizer | None, generator: torch.Generator
) -> float:
    """Twice the hidden units of every feed-forward layer, and twice the depth."""
    family, example = FAMILIES["gpt"], learner.example(2)
    gap = widen_all(
        learner.model,
        2.0,
        only="*up",
        method=method,
        example_input=example,
        optimizer=optimizer,
        generator=generator,
    ).largest_gap
    return max(
        gap,
        deepen_to(
            learner.model,
            family.depths[-2],
            family.places(),
            example=example,
            optimizer=optimizer,
            generator=generator,
            method=method,
        ),
    )


def _poster(setting: Setting, seed: int) -> Learner:
    return Learner(build(setting, "half", seed), task_of(setting, seed), precision=setting.precision)


def _grow_poster(
    learner: Learner, method: str, optimizer: torch.optim.Optimizer | None, generator: torch.Generator
) -> float:
    """Twice the filters in every layer."""
    return grow(
        learner.model, "widen", method=method, example=learner.example(4), optimizer=optimizer, generator=generator
    )


SUBJECTS: Mapping[str, Subject] = {
    "gpt": Subject(_gpt, _grow_gpt, 32),
    "poster": Subject(_poster, _grow_poster, 500),
}
"""By name."""


def _steps(setting: Setting) -> tuple[int, int]:
    return max(WINDOW + 2, round(BEFORE * setting.scale)), max(EARLY + 1, round(AFTER * setting.scale))


def cells(setting: Setting) -> list[Cell]:
    """Every subject with every seed; the cost counts grown steps at three times the ungrown ones."""
    before, after = _steps(setting)
    found = []
    for name, subject in SUBJECTS.items():
        step = subject.learner(setting, 0).step_flops
        cost = step * (before + (1 + 3 * (len(VARIANTS) - 1)) * after)
        found += [Cell(f"{name}-s{seed}", cost, {"subject": name, "seed": seed}) for seed in setting.seeds]
    return found


def run_cell(setting: Setting, cell: Cell) -> Row:
    """One trunk, and every variant from the same weights on the same batches."""
    subject, seed = SUBJECTS[cell.options["subject"]], int(cell.options["seed"])
    before, after = _steps(setting)
    trunk = subject.learner(setting, seed)
    held_out: list[float] = []
    while trunk.steps < before:
        trunk.step(min(1.0, (trunk.steps + 1) / WARMUP))
        if trunk.steps >= before - WINDOW:
            held_out.append(_held_out(trunk, subject))
    found: Row = {"before": {"train": trunk.losses[-WINDOW:], "held_out": held_out}, "variants": {}}
    flops, seconds = trunk.flops, trunk.seconds
    for name, (method, carry) in VARIANTS.items():
        branch = trunk.fork()
        gap = 0.0
        if method is not None:
            generator = generator_for("growth", seed)
            gap = subject.grow(branch, method, branch.optimizer if carry else None, generator)
            if not carry:
                branch.renew_optimizer()
            branch.recount()
        grown, watched = _held_out(branch, subject), []
        for number in range(after):
            branch.step(1.0)
            if number < EARLY:
                watched.append(_held_out(branch, subject))
        found["variants"][name] = {
            "gap": gap,
            "held_out_after_growth": grown,
            "held_out": watched,
            "train": branch.losses[before:],
            "held_out_at_end": _held_out(branch, subject),
        }
        flops, seconds = flops + branch.flops - trunk.flops, seconds + branch.seconds - trunk.seconds
    return {**found, "spent_flops": flops, "spent_seconds": seconds}


def _held_out(learner: Learner, subject: Subject) -> float:
    return learner.task.evaluate(learner.model, examples=subject.examples)["loss"]


def _noise(row: Row) -> float:
    """Root mean square of what one update changes the held-out loss by, over the last updates before the growth."""
    values = row["before"]["held_out"]
    changes = [b - a for a, b in pairwise(values)]
    return math.sqrt(sum(change**2 for change in changes) / len(changes))


def summarise(rows: Mapping[str, Row]) -> dict[str, Any]:
    """By subject and variant: what the growth and the first update after it change, against the noise of a step."""
    return {"subjects": {name: _subject(rows_with(rows, subject=name)) for name in SUBJECTS}}


def _subject(rows: Sequence[Row]) -> dict[str, Any]:
    found: dict[str, Any] = {"noise_of_a_step": mean_and_spread([_noise(row) for row in rows])}
    for name in VARIANTS:
        columns: dict[str, list[float]] = {}
        for row in rows:
            variant, level, noise = row["variants"][name], row["before"]["held_out"][-1], _noise(row)
            plain = row["variants"]["no growth"]
            excess = [a - b for a, b in zip(variant["held_out"], plain["held_out"], strict=True)]
            for key, value in (
                ("gap", variant["gap"]),
                ("change_by_growth", variant["held_out_after_growth"] - level),
                ("change_by_growth_and_first_update", variant["held_out"][0] - level),
                ("the_same_in_steps_of_noise", (variant["held_out"][0] - level) / noise),
                ("largest_rise_in_steps_of_noise", (max(variant["held_out"]) - level) / noise),
                ("mean_excess_over_no_growth", sum(excess) / len(excess)),
                ("final_minus_no_growth", variant["held_out_at_end"] - plain["held_out_at_end"]),
            ):
                columns.setdefault(key, []).append(value)
        found[name] = {key: mean_and_spread(values) for key, values in columns.items()}
    return found


def tables(summary: Mapping[str, Any]) -> list[Table]:
    """One table a subject."""
    columns = [
        "variant",
        "held-out loss: change by the growth",
        "by the growth and the first update",
        "the same, in steps of noise",
        f"largest rise within {EARLY} updates, in steps of noise",
        "mean excess over no growth in these",
        "final loss minus that of no growth",
    ]
    found = []
    for name, subject in summary["subjects"].items():
        lines = [
            [
                variant,
                f"{subject[variant]['change_by_growth']['mean']:+.1e}",
                *(
                    spread_text(subject[variant][key], "+.4f")
                    for key in (
                        "change_by_growth_and_first_update",
                        "the_same_in_steps_of_noise",
                        "largest_rise_in_steps_of_noise",
                        "mean_excess_over_no_growth",
                        "final_minus_no_growth",
                    )
                ),
            ]
            for variant in VARIANTS
        ]
        noise = subject["noise_of_a_step"]
        found.append(Table(f"{name}: the noise of a step is {spread_text(noise)}", columns, lines))
    return found


def draw(rows: Mapping[str, Row], out: Path) -> None:
    """Held-out loss around the growth, update by update; training loss over a longer stretch."""
    from graftwork.reports import Curve, curves_figure, write_figure

    for subject in SUBJECTS:
        chosen = rows_with(rows, subject=subject)
        near, far = [], []
        for name in VARIANTS:
            # each seed relative to where it stood at the growth: seeds differ by more than a growth does
            paths = [
                [value - row["before"]["held_out"][-1] for value in row["before"]["held_out"][-EARLY:]]
                + [value - row["before"]["held_out"][-1] for value in row["variants"][name]["held_out"]]
                for row in chosen
            ]
            near.append(Curve(name, list(range(1 - EARLY, EARLY + 1)), *curve_bands(paths)))
            losses = [row["before"]["train"] + row["variants"][name]["train"] for row in chosen]
            start = len(chosen[0]["before"]["train"])
            far.append(Curve(name, [i - start for i in range(len(losses[0]))], curve_bands(losses)[0]))
        title = f"Through a growth: {subject}, {len(chosen)} seeds"
        figure = curves_figure(near, xlabel="updates since the growth", ylabel="change of held-out loss", title=title)
        write_figure(figure, out / f"{subject}-held-out")
        figure = curves_figure(far, xlabel="updates since the growth", ylabel="training loss", title=title)
        write_figure(figure, out / f"{subject}-train")


CARRY = GridExperiment(
    "carry",
    "Does the loss jump when a network grows in the middle of training, with and without the optimizer's state?",
    cells,
    run_cell,
    lambda setting: _gpt(setting, 0),
    summarise,
    tables,
    draw,
    num_seeds=5,
)
