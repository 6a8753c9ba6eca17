"""Late single growth in depth under warm-up/stable/decay, against the envelope of networks from scratch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from experiments._common import Row, curve_bands, mean_and_spread, spread_text
from experiments.growing._envelope import flops_to_reach, lower_envelope
from experiments.growing._families import FAMILIES, Family, deepen_to
from experiments.growing._grid import Cell, GridExperiment, Setting, Table, rows_with
from experiments.growing._learner import Learner
from graftwork.errors import ConfigError
from graftwork.training import generator_for

BUDGETS = (1, 2, 4)
"""In units of a family's smallest budget."""
GROWTH, DECAY, WARMUP = 0.5, 0.25, 30
"""Share of the FLOPs before the growth; share of the FLOPs at the end in which the rate falls; updates of warm-up."""
AGAINST = {
    "growth": "loss minus envelope at equal FLOPs; share of the envelope's FLOPs for equal loss, by seed",
    "growth_against_its_depth": "loss minus that of its final depth from scratch at equal FLOPs; share of its FLOPs",
}
"""Key of the summary → what its table says."""
VARIANTS = {
    "r2r": ("r2r", True),
    "r2r, optimizer reset": ("r2r", False),
    "random layers": ("random-padding", True),
}
"""Name → how new layers are filled, whether the optimizer is carried."""


def budgets_of(family: Family, setting: Setting) -> list[float]:
    """FLOPs of each budget."""
    return [family.base_budget * setting.scale * factor for factor in BUDGETS]


def cells(setting: Setting) -> list[Cell]:
    """For every family and seed: every depth from scratch, every growth to the full depth, r2r to half of it."""
    found = []
    for name, family in FAMILIES.items():
        budgets = budgets_of(family, setting)
        trunk, tails = (1 - DECAY) * budgets[-1], DECAY * sum(budgets)
        grown = GROWTH * budgets[-1] + (1 - GROWTH) * sum(budgets)
        full = family.depths[-1]
        for seed in setting.seeds:
            shared = {"family": name, "seed": seed}
            for depth in family.depths:
                options = {**shared, "depth": depth, "variant": None}
                found.append(Cell(f"{name}-scratch-{depth}-s{seed}", trunk + tails, options))
            for variant, depth in [*((v, full) for v in VARIANTS), ("r2r", family.depths[-2])]:
                label = variant.replace(", ", "-").replace(" ", "-")
                options = {**shared, "depth": depth, "variant": variant}
                found.append(Cell(f"{name}-{label}-to-{depth}-s{seed}", grown, options))
    return found


def run_cell(setting: Setting, cell: Cell) -> Row:
    """Train the trunk at the stable rate; at every budget's moment branch off its end."""
    family, seed = FAMILIES[cell.options["family"]], int(cell.options["seed"])
    variant, depth = cell.options["variant"], int(cell.options["depth"])
    start = depth if variant is None else family.depths[0]
    trunk = _learner(setting, family, depth=start, seed=seed)
    ends, branched_flops, branched_seconds = [], 0.0, 0.0
    for budget in budgets_of(family, setting):
        leave = GROWTH if variant is not None else 1 - DECAY
        trunk.spend(leave * budget, _stable)
        branch = trunk.fork()
        end: Row = {"budget": budget}
        if variant is not None:
            end |= _grow(branch, family, depth - start, variant=variant, seed=seed)
        branch.spend(budget, lambda learner, budget=budget: _falling(learner, budget))  # type: ignore[misc]
        if branch.steps == 0:
            raise ConfigError(f"{cell.name}: {budget:.3g} FLOPs are less than one update; give a larger --scale")
        ends.append({**end, **branch.point(), "curve": _thin(branch)})
        branched_flops += branch.flops - trunk.flops
        branched_seconds += branch.seconds - trunk.seconds
    return {
        "ends": ends,
        "parameters": sum(p.numel() for p in branch.model.parameters()),
        "data": family.describe(setting),
        "spent_flops": trunk.flops + branched_flops,
        "spent_seconds": trunk.seconds + branched_seconds,
    }


def _learner(setting: Setting, family: Family, *, depth: int, seed: int) -> Learner:
    return Learner(family.build(setting, depth, seed), family.task(setting, seed), precision=setting.precision)


def _stable(learner: Learner) -> float:
    return min(1.0, (learner.steps + 1) / WARMUP)


def _falling(learner: Learner, budget: float) -> float:
    return min(_stable(learner), max(0.0, budget - learner.flops) / (DECAY * budget))


def _grow(learner: Learner, family: Family, extra: int, *, variant: str, seed: int) -> Row:
    method, carry = VARIANTS[variant]
    before = learner.point()
    gap = deepen_to(
        learner.model,
        extra,
        family.places(),
        example=learner.example(2),
        optimizer=learner.optimizer if carry else None,
        generator=generator_for("growth", seed),
        method=method,
    )
    if not carry:
        learner.renew_optimizer()
    learner.recount()
    after = learner.task.evaluate(learner.model)
    return {"grown_at": before, "loss_after_growth": after["loss"], "gap": gap}


def _thin(learner: Learner, points: int = 60) -> list[float]:
    """Training losses, each the mean over an equal share of the updates."""
    losses = torch.tensor(learner.losses)
    return [round(float(part.mean()), 5) for part in losses.chunk(min(points, len(losses)))]


def summarise(rows: Mapping[str, Row]) -> dict[str, Any]:
    """For every family: the envelope, every growth beside it at equal FLOPs, and the share of FLOPs for equal loss."""
    return {"families": {name: _family(rows_with(rows, family=name)) for name in FAMILIES}}


def _label(row: Row) -> str:
    options = row["options"]
    if options["variant"] is None:
        return f"scratch, depth {options['depth']}"
    return f"{options['variant']} to depth {options['depth']}"


def _family(rows: Sequence[Row]) -> dict[str, Any]:
    losses: dict[str, dict[float, dict[int, float]]] = {}  # label → budget → seed → loss
    for row in rows:
        by_budget = losses.setdefault(_label(row), {})
        for end in row["ends"]:
            by_budget.setdefault(end["budget"], {})[row["options"]["seed"]] = end["loss"]
    scratch = {label: curve for label, curve in losses.items() if label.startswith("scratch")}
    grown = {label: curve for label, curve in losses.items() if label not in scratch}
    seeds = sorted({row["options"]["seed"] for row in rows})
    envelopes = {
        seed: lower_envelope({s: {b: by_seed[seed] for b, by_seed in c.items()} for s, c in scratch.items()})
        for seed in seeds
    }
    means = lower_envelope({s: {b: _mean(by_seed) for b, by_seed in c.items()} for s, c in scratch.items()})
    return {
        "data": rows[0]["data"],
        "final_loss": {
            label: {f"{b:.3g}": mean_and_spread(list(v.values())) for b, v in curve.items()}
            for label, curve in losses.items()
        },
        "envelope": {f"{b:.3g}": {"loss": loss, "size": size} for b, (loss, size) in means.items()},
        "growth": {
            label: _against(curve, {s: _line(e) for s, e in envelopes.items()}) for label, curve in grown.items()
        },
        "growth_against_its_depth": {
            label: _against(curve, _by_seed(scratch[f"scratch, depth {label.rpartition(' ')[2]}"]))
            for label, curve in grown.items()
        },
        "loss_at_growth": _across(rows),
    }


def _mean(by_seed: Mapping[int, float]) -> float:
    return sum(by_seed.values()) / len(by_seed)


def _line(envelope: Mapping[float, tuple[float, str]]) -> list[tuple[float, float]]:
    return [(flops, loss) for flops, (loss, _) in envelope.items()]


def _by_seed(curve: Mapping[float, Mapping[int, float]]) -> dict[int, list[tuple[float, float]]]:
    seeds = next(iter(curve.values()))
    return {seed: [(budget, losses[seed]) for budget, losses in sorted(curve.items())] for seed in seeds}


def _against(
    curve: Mapping[float, Mapping[int, float]], lines: Mapping[int, list[tuple[float, float]]]
) -> dict[str, Any]:
    """One growth, seed by seed against a line of FLOPs and loss from scratch (the same data in the same order).

    A share of the FLOPs is 0 where no budget brought the line to that loss, None where its smallest one did better.
    """
    found = {}
    for budget, by_seed in curve.items():
        excess, shares = [], list[float | None]()
        for seed, loss in by_seed.items():
            excess.append(loss - dict(lines[seed])[budget])
            needed = flops_to_reach(loss, lines[seed])
            shares.append(round(budget / needed, 4) if needed else None)
        found[f"{budget:.3g}"] = {
            "loss_difference": mean_and_spread(excess),
            "share_of_flops": shares,
        }
    return found


def _across(rows: Sequence[Row]) -> dict[str, Any]:
    """Held-out loss before and after each growth."""
    jumps: dict[str, list[float]] = {}
    for row in rows:
        for end in row["ends"]:
            if "grown_at" in end:
                jumps.setdefault(_label(row), []).append(end["loss_after_growth"] - end["grown_at"]["loss"])
    return {label: mean_and_spread(values) for label, values in jumps.items()}


def tables(summary: Mapping[str, Any]) -> list[Table]:
    """Final losses by budget, and growth against the envelope."""
    found = []
    for name, family in summary["families"].items():
        budgets = list(family["envelope"])
        columns = ["network", *(f"{float(b) / 1e12:.2f} TFLOP" for b in budgets)]
        lines = [[label, *(spread_text(v[b]) for b in budgets)] for label, v in family["final_loss"].items()]
        lines.append(["envelope", *(f"{e['loss']:.4f} ({e['size']})" for e in family["envelope"].values())])
        found.append(Table(f"{name}: final validation loss", columns, lines))
        for key, title in AGAINST.items():
            lines = [[label, *(_verdict(by_budget[b]) for b in budgets)] for label, by_budget in family[key].items()]
            found.append(Table(f"{name}: {title}", columns, lines))
    return found


def _verdict(entry: Mapping[str, Any]) -> str:
    excess = entry["loss_difference"]
    words = {None: "above all", 0: "below all"}
    shares = ", ".join(words.get(share) or f"{share:.2f}" for share in entry["share_of_flops"])
    return f"{spread_text(excess, '+.4f')}; {shares}"


def draw(rows: Mapping[str, Row], out: Path) -> None:
    """Final loss against FLOPs for each family."""
    from graftwork.reports import Curve, curves_figure, write_figure

    for name in FAMILIES:
        losses: dict[str, dict[float, list[float]]] = {}
        for row in rows_with(rows, family=name):
            for end in row["ends"]:
                losses.setdefault(_label(row), {}).setdefault(end["budget"], []).append(end["loss"])
        series = [
            Curve(label, list(c), *curve_bands(list(zip(*c.values(), strict=True)))) for label, c in losses.items()
        ]
        figure = curves_figure(
            series,
            xlabel="training FLOPs",
            ylabel="final validation loss",
            title=f"Depth grown late: {name}",
            log_x=True,
        )
        write_figure(figure, out / name)


DEEP_GROWTH = GridExperiment(
    "deep-growth",
    "Does one late growth from shallow to full depth reach the loss of the envelope for fewer FLOPs?",
    cells,
    run_cell,
    lambda setting: _learner(setting, FAMILIES["gpt"], depth=FAMILIES["gpt"].depths[-1], seed=0),
    summarise,
    tables,
    draw,
)
