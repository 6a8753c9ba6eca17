"""Do scores of sites rank them as training does?"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments._common import Row, mean_and_spread, spread_text
from experiments.growing import _families as families
from experiments.growing._grid import Cell, GridExperiment, Setting, Table, rows_with
from experiments.growing._learner import Learner, seeded
from experiments.growing._models import ByteGPT, StageNet
from experiments.growing._tasks import ImageTask, Task, TextTask, evaluation_mode
from graftwork.surgery import Deepen, ModelGrowth, SiteScore, SurgeryReceipt, Widen, grow, score_sites
from graftwork.training import generator_for

BEFORE, AFTER = 150, 60
"""Updates before the growth, and after it, at scale 1."""
FACTOR, DRAWS = 1.25, 2
"""Ratio of new to old width; draws of new weights at every site, over which gains are averaged."""
SCORED, UNSEEN = 8, 100_000
"""Number of training batches that are scored and measured on, and the number of the first of them."""
WIDTHS = (24, 12, 32, 8, 16)


@dataclass(frozen=True)
class Subject:
    """A model to grow.

    Args:
        model: Setting and seed → a fresh model.
        task: Setting and seed → what it learns.
    """

    model: Callable[[Setting, int], nn.Module]
    task: Callable[[Setting, int], Task]

    def learner(self, setting: Setting, seed: int) -> Learner:
        """The model, untrained, with its optimizer."""
        return Learner(self.model(setting, seed), self.task(setting, seed), precision=setting.precision)


def _mlp(setting: Setting, seed: int) -> nn.Module:
    problem = families.problem_of(setting.data)
    sizes = [math.prod(problem.input_shape), *WIDTHS]

    def build() -> nn.Module:
        parts = [part for a, b in zip(sizes, WIDTHS, strict=False) for part in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *parts, nn.Linear(WIDTHS[-1], len(problem.dataset.class_names)))

    return seeded(build, seed)


def _resnet(setting: Setting, seed: int) -> nn.Module:
    problem = families.problem_of(setting.data)
    channels, classes = problem.input_shape[0], len(problem.dataset.class_names)
    return seeded(lambda: StageNet(2, channels=(8, 16), in_channels=channels, num_classes=classes), seed)


def _images(setting: Setting, seed: int) -> Task:
    problem = families.problem_of(setting.data)
    return ImageTask.of(problem, seed=seed, batch_size=64, lr=3e-3, kind="adam", flips=False)


def _gpt(setting: Setting, seed: int) -> nn.Module:
    return seeded(lambda: ByteGPT(2, width=64, num_heads=4, context=64), seed)


def _text(setting: Setting, seed: int) -> Task:
    return TextTask(families.corpus(), seed, context=64, batch_size=8, lr=2e-3, windows=64)


SUBJECTS: Mapping[str, Subject] = {
    "mlp": Subject(_mlp, _images),
    "resnet": Subject(_resnet, _images),
    "gpt": Subject(_gpt, _text),
}
"""By name."""


def steps_of(setting: Setting) -> tuple[int, int]:
    """Updates before a growth, and after."""
    return max(2, round(BEFORE * setting.scale)), max(2, round(AFTER * setting.scale))


def cells(setting: Setting) -> list[Cell]:
    """Every model with every seed; the cost is that of about thirty growths."""
    before, after = steps_of(setting)
    found = []
    for name, subject in SUBJECTS.items():
        cost = subject.learner(setting, 0).step_flops * (before + 30 * DRAWS * after)
        found += [Cell(f"{name}-s{seed}", cost, {"subject": name, "seed": seed}) for seed in setting.seeds]
    return found


def run_cell(setting: Setting, cell: Cell) -> Row:
    """Score a trained model, then grow it at every scored place and train it on, beside an ungrown one."""
    subject, seed = SUBJECTS[cell.options["subject"]], int(cell.options["seed"])
    before, after = steps_of(setting)
    trial = Trial(trained(subject.learner(setting, seed), before), after, seed)
    scores = score_sites(trial.trunk.model, trial.batches, loss_of, factor=FACTOR)
    places = [_place(trial, score) for score in scores]
    return {"loss": scores.loss, "places": places, **trial.spent()}


def trained(learner: Learner, steps: int) -> Learner:
    """The learner after so many updates, the first with a warm-up."""
    while learner.steps < steps:
        learner.step(min(1.0, (learner.steps + 1) / 20))
    return learner


def _place(trial: "Trial", score: SiteScore) -> Row:
    """What a score says of a place, and what growing there brings."""
    growth: ModelGrowth = Deepen(score.site, check="fast")
    if score.kind == "widen":
        growth = Widen(score.site, factor=FACTOR, method="netmorph", check="fast")
    gains = [trial.gain(growth, draw) for draw in range(DRAWS)]
    row = {key: sum(gain[key] for gain in gains) / DRAWS for key in gains[0]}
    scored = {"score": score.gain, "score_per_parameter": score.per_parameter, "parameters": score.parameters}
    return {"site": score.site, "kind": score.kind, **scored, **row}


def loss_of(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().flatten(0, -2), target)


class Trial:
    """Growths of one trained model, each followed by training, against the same training without it.

    Args:
        trunk: The trained model.
        after: Number of updates after a growth.
        seed: Seed of new weights.

    Attributes:
        batches: Training batches to score and measure on.
    """

    def __init__(self, trunk: Learner, after: int, seed: int) -> None:
        self.trunk, self._after, self._seed = trunk, after, seed
        self.batches = [trunk.task.batch(UNSEEN + number) for number in range(SCORED)]
        self._flops, self._seconds = trunk.flops, trunk.seconds
        self._control = trunk.fork()
        self._levels: dict[int, float] = {}

    def gain(
        self, growth: ModelGrowth, draw: int, prepare: Callable[[nn.Module, SurgeryReceipt], object] | None = None
    ) -> dict[str, float]:
        """Loss without a growth minus the loss with it, after as many updates and after as many FLOPs.

        Args:
            growth: The growth.
            draw: Number of the draw of its new weights.
            prepare: Is called with the grown model and the receipt, before training goes on.
        """
        branch, generator = self.trunk.fork(), generator_for("growth", self._seed, draw)
        example, optimizer = branch.example(4), branch.optimizer
        receipt = grow(branch.model, growth, example_input=example, optimizer=optimizer, generator=generator)
        if prepare is not None:
            prepare(branch.model, receipt)
        branch.recount()
        for _ in range(self._after):
            branch.step(1.0)
        ratio = branch.step_flops / self.trunk.step_flops
        self._flops += branch.flops - self.trunk.flops
        self._seconds += branch.seconds - self.trunk.seconds
        loss = self._level_of(branch)
        return {
            "equal_steps": self._control_after(self._after) - loss,
            "equal_flops": self._control_after(round(self._after * ratio)) - loss,
        }

    def spent(self) -> dict[str, float]:
        """What all training but the controls' has cost, for a row."""
        return {"spent_flops": self._flops, "spent_seconds": self._seconds}

    def _control_after(self, steps: int) -> float:
        """Loss without growth after so many updates more."""
        if steps not in self._levels:
            if self._control.steps > self.trunk.steps + steps:
                self._control = self.trunk.fork()
            while self._control.steps < self.trunk.steps + steps:
                self._control.step(1.0)
            self._levels[steps] = self._level_of(self._control)
        return self._levels[steps]

    def _level_of(self, learner: Learner) -> float:
        """Loss on the scored batches, in evaluation mode."""
        with evaluation_mode(learner.model) as model, torch.no_grad():
            return sum(float(loss_of(model(x), y)) for x, y in self.batches) / len(self.batches)


PAIRS: Mapping[str, tuple[Callable[[Row], float], Callable[[Row], float]]] = {
    "score, gain at equal steps": (lambda p: p["score"], lambda p: p["equal_steps"]),
    "score, gain at equal FLOPs": (lambda p: p["score"], lambda p: p["equal_flops"]),
    "score per parameter, gain per parameter": (
        lambda p: p["score_per_parameter"],
        lambda p: p["equal_steps"] / p["parameters"],
    ),
    "number of parameters, gain at equal steps": (lambda p: p["parameters"], lambda p: p["equal_steps"]),
}
"""What is correlated: of a score, of a real gain. The last is what a score has to beat."""
KINDS: Mapping[str, tuple[str, ...]] = {"wider": ("widen",), "deeper": ("deepen",), "both": ("widen", "deepen")}


def summarise(rows: Mapping[str, Row]) -> dict[str, Any]:
    """By model and kind of growth: Spearman's correlation in every seed."""
    return {"subjects": {name: _subject(chosen) for name in SUBJECTS if (chosen := rows_with(rows, subject=name))}}


def _subject(rows: Sequence[Row]) -> dict[str, Any]:
    from scipy.stats import spearmanr

    found: dict[str, Any] = {"correlations": {}}
    for label, kinds in KINDS.items():
        for pair, (first, second) in PAIRS.items():
            values = []
            for row in rows:
                places = [place for place in row["places"] if place["kind"] in kinds]
                values.append(float(spearmanr([first(p) for p in places], [second(p) for p in places]).statistic))
            number = len([place for place in rows[0]["places"] if place["kind"] in kinds])
            found["correlations"].setdefault(label, {"places": number})[pair] = mean_and_spread(values)
    return found


def tables(summary: Mapping[str, Any]) -> list[Table]:
    """Rank correlations."""
    lines = []
    for name, subject in summary["subjects"].items():
        for label, found in subject["correlations"].items():
            values = [spread_text(found[pair], "+.2f") for pair in PAIRS]
            lines.append([name, label, str(found["places"]), *values])
    return [Table("Spearman's rank correlation over places", ["model", "growth", "places", *PAIRS], lines)]


def draw(rows: Mapping[str, Row], out: Path) -> None:
    """One point a place: score and real gain."""
    from graftwork.reports import Curve, curves_figure, write_figure

    for name in SUBJECTS:
        series = []
        for row in rows_with(rows, subject=name):
            points = sorted((p["score"], p["equal_steps"]) for p in row["places"])
            series.append(Curve(f"seed {row['options']['seed']}", [p[0] for p in points], [p[1] for p in points]))
        if series:
            title = f"Scores and gains: {name}"
            figure = curves_figure(series, xlabel="score", ylabel="gain, nats", title=title, log_x=True)
            write_figure(figure, out / name)


SCORE_SITES = GridExperiment(
    "score-sites",
    "Do scores of sites rank them as training does?",
    cells,
    run_cell,
    lambda setting: SUBJECTS["gpt"].learner(setting, 0),
    summarise,
    tables,
    draw,
    partial=True,
)
"""The experiment over a grid."""
