"""Loss of a Llama through every growth in the middle of Trainer's training, with and without the optimizer's state."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import stdev
from time import perf_counter
from typing import TYPE_CHECKING, Any

from experiments._common import Row, curve_bands, mean_and_spread, spread_text
from experiments.growing import _families as families
from experiments.growing._grid import Cell, GridExperiment, Setting, Table, rows_with
from experiments.growing._learner import Learner
from experiments.growing._models import ByteGPT
from experiments.growing._tasks import TextTask
from graftwork.surgery import (
    Deepen,
    InsertLayers,
    ModelGrowth,
    RepeatKeyValueHeads,
    WidenAll,
    WidenOutputs,
    WidenStream,
)

if TYPE_CHECKING:
    from experiments.growing._llama import Around, LlamaTraining

BEFORE, AFTER, WARMUP = 80, 8, 10
"""Updates before and after the growth at scale 1; updates of warm-up."""
WINDOW = 20
"""Updates before the growth whose changes of the held-out loss are the noise of a step."""
SHAPE: Mapping[str, int] = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 7,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
"""20.9 M parameters over bytes."""
CONTEXT, BATCH_SIZE, LR, WINDOWS = 64, 2, 5e-4, 4
GROWTHS: Mapping[str, ModelGrowth] = {
    "layers-zero-out": InsertLayers("model.layers", count=2),
    "layers-r2r": InsertLayers("model.layers", count=2, init="r2r"),
    "stream": WidenStream(1.25),
    "mlp": WidenAll(1.5, only="*.mlp.*"),
    "heads": WidenAll(1.5, only="*.self_attn.*"),
    "next-size": WidenAll(1.25, width=1.25),
    "vocabulary-mean": WidenOutputs(None, 64, init="mean"),
    "vocabulary-zero": WidenOutputs(None, 64),
    "key-value-heads": RepeatKeyValueHeads(2),
    "blocks": Deepen("model.layers.3.mlp"),
}
"""By name."""
NONE = "no growth"
VARIANTS: Mapping[str, bool] = {"carried": True, "optimizer reset": False}
"""Name → whether the optimizer's state is kept."""


def _training(setting: Setting, seed: int) -> "LlamaTraining":
    from experiments.growing._llama import LlamaTraining  # needs transformers

    task = TextTask(families.corpus(), seed, CONTEXT, BATCH_SIZE, LR, windows=WINDOWS)
    before = max(WINDOW + 2, round(BEFORE * setting.scale))
    return LlamaTraining(task, SHAPE, seed, WARMUP, before, before + AFTER, WINDOW, setting.precision)


@lru_cache(1)
def _trunk(setting: Setting, seed: int) -> tuple["tempfile.TemporaryDirectory[str]", "Around", "Around"]:
    """The folder of a checkpoint before the growth, what was seen until there, and what follows without a growth."""
    training, folder = _training(setting, seed), tempfile.TemporaryDirectory()
    return folder, training.trunk(Path(folder.name)), training.go_on(Path(folder.name), None)


def cells(setting: Setting) -> list[Cell]:
    """Every growth with every seed; grown updates are counted as ungrown ones, and the shared beginning once a seed."""
    training = _training(setting, 0)
    step = 6.0 * training.model().num_parameters() * BATCH_SIZE * CONTEXT
    first, rest = training.until + len(VARIANTS) * AFTER, len(VARIANTS) * AFTER
    return [
        Cell(f"{growth}-s{seed}", step * (rest if number else first), {"growth": growth, "seed": seed})
        for seed in setting.seeds
        for number, growth in enumerate(GROWTHS)
    ]


def run_cell(setting: Setting, cell: Cell) -> Row:
    """One growth from the checkpoint of its seed, with and without the optimizer's state, beside none."""
    began = perf_counter()
    growth, seed = replace(GROWTHS[cell.options["growth"]], check="fast"), int(cell.options["seed"])
    folder, trunk, plain = _trunk(setting, seed)
    found: Row = {"before": {"train": trunk.train, "held_out": trunk.held_out}}
    variants = {NONE: plain}
    for name, carry in VARIANTS.items():
        variants[name] = _training(setting, seed).go_on(Path(folder.name), growth, carry=carry)
    found["variants"] = {
        name: {
            "held_out": around.held_out,
            "over_all_tokens": around.over_all_tokens,
            "train": around.train,
            "gap": max((receipt.largest_gap for receipt in around.receipts), default=0.0),
            "parameters": around.parameters,
        }
        for name, around in variants.items()
    }
    return {**found, "spent_flops": cell.flops, "spent_seconds": perf_counter() - began}


def _noise(row: Row) -> float:
    """Standard deviation of what one update changes the held-out loss by, over the last updates before the growth."""
    levels: list[float] = row["before"]["held_out"]
    return stdev(after - before for before, after in pairwise(levels))


def summarise(rows: Mapping[str, Row]) -> dict[str, Any]:
    """By growth and variant: the loss above that of no growth, at the growth and after, against the noise of a step."""
    found: dict[str, Any] = {"noise_of_a_step": mean_and_spread([_noise(row) for row in rows.values()])}
    found["growths"] = {name: _growth(chosen) for name in GROWTHS if (chosen := rows_with(rows, growth=name))}
    return found


MEASURES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "at_the_growth": lambda excess: excess[0],
    "after_the_first_update": lambda excess: excess[1],
    "largest": max,
    "mean": lambda excess: sum(excess[1:]) / len(excess[1:]),
    "at_the_end": lambda excess: excess[-1],
}
"""Name → what is taken of the held-out loss minus that of no growth: at the growth, then after every update."""


def _growth(rows: Sequence[Row]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "parameters": [rows[0]["variants"][name]["parameters"] for name in (NONE, "carried")],
        "gap": mean_and_spread([row["variants"]["carried"]["gap"] for row in rows]),
    }
    for name in VARIANTS:
        columns: dict[str, list[float]] = {}
        for row in rows:
            pairs = zip(row["variants"][name]["held_out"], row["variants"][NONE]["held_out"], strict=True)
            excess, noise = [grown - plain for grown, plain in pairs], _noise(row)
            for key, measure in MEASURES.items():
                columns.setdefault(key, []).append(measure(excess))
                columns.setdefault(f"{key}_in_steps_of_noise", []).append(measure(excess) / noise)
            whole = [row["variants"][one]["over_all_tokens"][0] for one in (name, NONE)]
            columns.setdefault("at_the_growth_over_all_tokens", []).append(whole[0] - whole[1])
        found[name] = {key: mean_and_spread(values) for key, values in columns.items()}
    return found


def tables(summary: Mapping[str, Any]) -> list[Table]:
    """One table for each variant of the optimizer."""
    noise = summary["noise_of_a_step"]
    columns = ["growth", "parameters", "at the growth", "after the first update", f"mean of {AFTER} updates", "largest"]
    found = []
    for variant in VARIANTS:
        lines = []
        for name, growth in summary["growths"].items():
            old, new = growth["parameters"]
            cells = [f"`{GROWTHS[name]}`", f"{old / 1e6:.1f} → {new / 1e6:.1f} M"]
            for key in ("at_the_growth", "after_the_first_update", "mean", "largest"):
                value = growth[variant][f"{key}_in_steps_of_noise"]
                cells.append(spread_text(value, "+.2f"))
            lines.append(cells)
        title = f"{variant}: held-out loss above that of no growth, in steps of noise ({noise['mean']:.4f} nats)"
        found.append(Table(title, columns, lines))
    return found


def draw(rows: Mapping[str, Row], out: Path) -> None:
    """Held-out loss around each growth, update by update."""
    from graftwork.reports import Curve, curves_figure, write_figure

    for name in GROWTHS:
        chosen = rows_with(rows, growth=name)
        if not chosen:
            continue
        curves = []
        for variant in (NONE, *VARIANTS):
            # each seed relative to where it stood at the growth: seeds differ by more than a growth does
            paths = [
                [v - row["before"]["held_out"][-1] for v in row["before"]["held_out"][:-1]]
                + [v - row["before"]["held_out"][-1] for v in row["variants"][variant]["held_out"]]
                for row in chosen
            ]
            curves.append(Curve(variant, list(range(-WINDOW, len(paths[0]) - WINDOW)), *curve_bands(paths)))
        title = f"Llama, {GROWTHS[name]}, {len(chosen)} seeds"
        figure = curves_figure(curves, xlabel="updates since the growth", ylabel="change of held-out loss", title=title)
        write_figure(figure, out / name)


def _probe(setting: Setting) -> Learner:
    """Two layers of the width: what transformers builds returns no plain tensor."""
    width, heads = SHAPE["hidden_size"], SHAPE["num_attention_heads"]
    model = ByteGPT(2, width=width, num_heads=heads, context=CONTEXT)
    return Learner(model, _training(setting, 0).task, precision=setting.precision)


TRAINER_GROWTH = GridExperiment(
    "trainer-growth",
    "Does the loss of a Llama jump when it grows in the middle of Trainer's training, by each growth?",
    cells,
    run_cell,
    _probe,
    summarise,
    tables,
    draw,
    num_seeds=5,
    partial=True,
)
"""The experiment over a grid."""
