"""What a person, a log or a machine sees while a search runs."""

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from graftwork.cli._app import emit, say, share

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from graftwork.evolution import Generation, Plan, SearchState
    from graftwork.session import Outline, Setup


_LINE_EVERY = 10.0


def facts(stage: str, setup: "Setup") -> dict[str, Any]:
    """What is known before the first step, as plain data."""
    problem, plan, memory = setup.problem, setup.plans.latest, setup.memory
    channels, height, width = problem.input_shape
    images, tests = problem.dataset.images, problem.dataset.test_images
    return {
        "stage": stage,
        "data": problem.dataset.name,
        "images": len(images) + (0 if tests is None else len(tests)),
        "classes": len(problem.dataset.class_names),
        "size": [height, width, channels],
        "batch_size": setup.trainer.batch_size,
        "step_seconds": setup.step_seconds,
        "memory": None if memory is None else memory.needed(setup.seed_network),
        "most_memory": None if memory is None else memory.most,
        "flops": plan.flops,
        "steps": plan.total_steps,
        "generations": plan.num_generations,
        "precision": setup.machine.precision,
        "threads": setup.machine.threads,
    }


def _outlines(outline: "Outline") -> list[str]:
    channels, height, width = outline.input_shape
    step = f"a step: {outline.batch_size} images"
    if outline.step_seconds is not None:
        step += f", about {outline.step_seconds:.2g} s"
    if outline.memory is not None and outline.most_memory is not None:
        step += f"; memory: about {outline.memory / 1e9:.2g} GB of {outline.most_memory / 1e9:.3g} GB"
    updates = "" if outline.updates is None else f"about {outline.updates:,} updates, "
    return [
        f"data: {outline.images:,} images of {outline.classes:,} classes, {height}×{width}×{channels}",
        step,
        f"plan: {updates}{outline.generations} generations at most; the machine is measured first",
    ]


def _headline(stage: str, setup: "Setup") -> str:
    found = facts(stage, setup)
    work = f"{found['flops'] / 1e15:.3g} PFLOP" if found["flops"] else f"{found['steps']:,} steps"
    step = "" if found["step_seconds"] is None else f", about {found['step_seconds']:.2g} s a step"
    return (
        f"{stage}: {work}, {found['generations']} generations, {found['precision']}, {found['threads']} threads{step}"
    )


def _look_line(stage: str, step: int, accuracy: float) -> str:
    return f"{stage} step {step:,}: the seed network would score {accuracy:.4f} validation now"


def _plan_line(plan: "Plan") -> str:
    return f"planned again for the budget: {(plan.flops or 0) / 1e15:.4g} PFLOP, {plan.num_generations} generations"


def _generation_line(stage: str, generation: "Generation") -> str:
    from graftwork.metrics import wilson_interval

    born = ", ".join(f"{birth.id} from {birth.parent}" for birth in generation.births)
    labels, metric = generation.evaluation.labels, generation.evaluation.metric
    interval = wilson_interval(round(generation.best_accuracy * len(labels)), len(labels))
    score = "" if metric == "accuracy" else f" ({metric} {abs(generation.best_score):.4f})"
    return (
        f"{stage} generation {generation.number}: best {generation.best} {share(generation.best_accuracy, interval)} "
        f"validation{score}, {len(generation.members)} members, {generation.training_flops / 1e15:.4g} PFLOP trained"
        + (f"; born: {born}" if born and generation.number else "")
    )


class _Rate:
    """Steps per second and time left."""

    def __init__(self, first: int, progress: float) -> None:
        self._start, self._first, self._from = time.monotonic(), first, progress

    def read(self, step: int, progress: float) -> str:
        """In words; without the time left until there is something to go by."""
        spent, done = time.monotonic() - self._start, progress - self._from
        if step <= self._first or spent <= 0:
            return "measuring speed"
        left = f", {spent * (1 - progress) / done:.0f} s left" if done > 0 else ""
        return f"{(step - self._first) / spent:.1f} steps/s{left}"


class LineListener:
    """Plain lines, for logs and pipes: one a generation, and one every ten seconds."""

    def __init__(self) -> None:
        self._stage = ""
        self._rate: _Rate | None = None
        self._spoken = time.monotonic()

    def on_outline(self, outline: "Outline") -> None:
        """Say what is known at once."""
        for line in _outlines(outline):
            say(line)

    def on_stage(self, stage: str, setup: "Setup") -> None:
        """Say what begins."""
        self._stage, self._rate = stage, None
        say(_headline(stage, setup))

    def on_decoding(self, done: int, total: int) -> None:
        """Say how far it is, now and then."""
        if time.monotonic() - self._spoken > _LINE_EVERY:
            say(f"decoding: {done:,} of {total:,} images")
            self._spoken = time.monotonic()

    def on_look(self, stage: str, step: int, accuracy: float) -> None:
        """Say what it gave."""
        say(_look_line(stage, step, accuracy))

    def on_plan(self, plan: "Plan") -> None:
        """Say what is planned."""
        say(_plan_line(plan))

    def on_step(self, state: "SearchState", member: str, loss: float, progress: float) -> None:
        """Say where it stands, now and then."""
        self._rate = self._rate or _Rate(state.step, progress)
        if time.monotonic() - self._spoken > _LINE_EVERY:
            where = f"{self._stage} step {state.step}: loss {loss:.3f}, {progress:.0%}"
            say(f"{where}, {self._rate.read(state.step, progress)}")
            self._spoken = time.monotonic()

    def on_generation(self, stage: str, generation: "Generation") -> None:
        """Say what a round gave."""
        say(_generation_line(stage, generation))

    def on_note(self, text: str) -> None:
        """Pass on what a user should know."""
        say(f"note: {text}")

    def close(self) -> None:
        """Nothing to clear away."""


class JsonListener(LineListener):
    """One JSON object a generation on the output stream."""

    def on_outline(self, outline: "Outline") -> None:
        """Tell it."""
        emit({"type": "outline", **asdict(outline)})

    def on_stage(self, stage: str, setup: "Setup") -> None:
        """Tell the plan."""
        emit({"type": "stage", **facts(stage, setup)})

    def on_decoding(self, done: int, total: int) -> None:
        """Say nothing."""

    def on_look(self, stage: str, step: int, accuracy: float) -> None:
        """Tell what it gave."""
        emit({"type": "look", "stage": stage, "step": step, "validation_accuracy": accuracy})

    def on_plan(self, plan: "Plan") -> None:
        """Tell the plan."""
        emit({"type": "plan", "flops": plan.flops, "generations": plan.num_generations})

    def on_step(self, state: "SearchState", member: str, loss: float, progress: float) -> None:
        """Say nothing."""

    def on_generation(self, stage: str, generation: "Generation") -> None:
        """Tell what a round gave."""
        row: dict[str, Any] = {
            "type": "generation",
            "stage": stage,
            "generation": generation.number,
            "best": generation.best,
            "validation_accuracy": generation.accuracies,
            "survivors": generation.survivors,
            "step": generation.step,
            "training_flops": generation.training_flops,
        }
        emit(row)

    def on_note(self, text: str) -> None:
        """Tell what a user should know."""
        emit({"type": "note", "text": text})


class BarListener:
    """A bar with accuracy, steps per second and time left, for terminals."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._best = "–"
        self._rate: _Rate | None = None

    def on_outline(self, outline: "Outline") -> None:
        """Print what is known at once."""
        for line in _outlines(outline):
            self._console.print(line, highlight=False)

    def on_stage(self, stage: str, setup: "Setup") -> None:
        """Begin a bar."""
        self.close()
        self._console.print(_headline(stage, setup), highlight=False)
        self._rate, self._best = None, "–"
        self._begin(stage, "best {task.fields[best]}  loss {task.fields[loss]}  {task.fields[speed]}", 1.0)

    def _begin(self, what: str, status: str, total: float) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        self._bar = Progress(*columns, TextColumn(status), console=self._console, transient=True)
        self._task = self._bar.add_task(what, total=total, best="–", loss="–", speed="")
        self._bar.start()

    def on_decoding(self, done: int, total: int) -> None:
        """Begin a bar, or move it."""
        if self._bar is None:
            self._begin("decoding", f"{total:,} images", total)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)

    def on_look(self, stage: str, step: int, accuracy: float) -> None:
        """Print what it gave above the bar."""
        self._best = f"{accuracy:.4f}"
        self._console.print(_look_line(stage, step, accuracy), highlight=False)

    def on_plan(self, plan: "Plan") -> None:
        """Print what is planned above the bar."""
        self._console.print(_plan_line(plan), highlight=False)

    def on_step(self, state: "SearchState", member: str, loss: float, progress: float) -> None:
        """Move the bar."""
        if self._bar is None or self._task is None:
            return
        self._rate = self._rate or _Rate(state.step, progress)
        text = self._rate.read(state.step, progress)
        self._bar.update(self._task, completed=progress, best=self._best, loss=f"{loss:.3f}", speed=text)

    def on_generation(self, stage: str, generation: "Generation") -> None:
        """Print what a round gave above the bar."""
        self._best = f"{generation.best_accuracy:.4f}"
        self._console.print(_generation_line(stage, generation), highlight=False)

    def on_note(self, text: str) -> None:
        """Print what a user should know above the bar."""
        self._console.print(f"note: {text}", highlight=False)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def make_listener(*, quiet: bool, as_json: bool) -> Any:
    """Choose by what the user asked for and what the error stream is."""
    from graftwork.session import SilentListener

    if as_json:
        return JsonListener()
    if quiet:
        return SilentListener()
    return BarListener() if sys.stderr.isatty() else LineListener()
