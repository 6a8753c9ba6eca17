"""The poster's experiment: a small network grown at 0, 25, 50 or 75 % of training, against controls at equal FLOPs."""

from collections.abc import Mapping
from typing import Any

from experiments._common import Row
from experiments.growing._families import problem_of
from experiments.growing._grid import Cell, GridExperiment, Setting
from experiments.growing._growth_report import draw, summarise, tables
from experiments.growing._learner import Learner, training_flops
from experiments.growing._widths import CHANGES, build, grow, task_of
from graftwork.training import Schedule, constant, cosine, generator_for, warmup_stable_decay

FULL_STEPS = 6000
"""Updates at scale 1, as many as the poster made."""
SCHEDULES: Mapping[str, Schedule] = {
    "constant": constant(),
    "cosine": cosine(),
    "warmup-stable-decay": warmup_stable_decay(warmup=0.05, decay=0.2),
}
MOMENTS: Mapping[str, tuple[float, ...]] = {
    "constant": (0.0, 0.25, 0.5, 0.75),
    "cosine": (0.5, 0.75),
    "warmup-stable-decay": (0.5, 0.75),
}
"""When to grow, as shares of the updates; all but the last fifth of the third schedule is at the full rate."""
CONVERGENCE = ("r2r", "random-padding", "scratch")
POINTS, EXAMPLES = 8, 2000
"""How often a curve is sampled, on how many validation images; the last point of a run takes all of them."""


def variants(change: str, schedule: str, moment: float) -> list[tuple[str, bool]]:
    """Method and whether the optimizer is carried. At 0 there is nothing to carry."""
    if schedule == "constant":
        found = [(method, True) for method in CHANGES[change].methods]
    else:
        found = [("r2r", True), ("random-padding", True)]
    return found + ([("r2r", False)] if moment > 0 else [])


def num_steps(setting: Setting) -> int:
    """Updates of a run."""
    return max(2 * POINTS, round(FULL_STEPS * setting.scale))


def _step_flops(setting: Setting) -> dict[str, float]:
    """FLOPs of an update by size."""
    task = task_of(setting, 0)
    example = task.batch(0)[0][:1]
    sizes = {size for change in CHANGES.values() for size in (change.start, *change.sizes)}
    return {size: training_flops(build(setting, size, 0), example) * task.batch_size for size in sorted(sizes)}


def budgets(change: str, schedule: str, costs: Mapping[str, float], steps: int) -> list[float]:
    """FLOPs that the grown networks spend, and those of the full one, by rising moment."""
    small, full = costs[CHANGES[change].start], costs["full"]
    moments = sorted({0.0, *MOMENTS[schedule]})
    return [steps * full - round(m * steps) * (full - small) for m in moments]


def cells(setting: Setting) -> list[Cell]:
    """Grown networks, networks from scratch for the same FLOPs, and the convergence experiment."""
    costs, steps = _step_flops(setting), num_steps(setting)
    found = []
    for seed in setting.seeds:
        for change, kind in CHANGES.items():
            small, full = costs[kind.start], costs["full"]
            for schedule, moments in MOMENTS.items():
                shared = {"change": change, "schedule": schedule, "seed": seed}
                for moment in moments:
                    before = round(moment * steps)
                    cost = before * small + len(variants(change, schedule, moment)) * (steps - before) * full
                    name = f"{change}-{schedule}-{round(100 * moment)}-s{seed}"
                    found.append(Cell(name, cost, {**shared, "kind": "grown", "moment": moment}))
                every = budgets(change, schedule, costs, steps)
                for size in kind.sizes:
                    cost = max(every) if schedule == "constant" else sum(every)
                    options = {**shared, "kind": "scratch", "size": size, "budgets": every}
                    found.append(Cell(f"{change}-{schedule}-{size}-s{seed}", cost, options))
        cost = 2 * steps * costs["half"] + len(CONVERGENCE) * steps * costs["full"]
        found.append(Cell(f"convergence-s{seed}", cost, {"kind": "convergence", "seed": seed}))
    return found


def run_cell(setting: Setting, cell: Cell) -> Row:
    """One of three kinds."""
    runner = {"grown": _run_grown, "scratch": _run_scratch, "convergence": _run_convergence}
    found = runner[cell.options["kind"]](setting, cell.options)
    return {**found, "data": problem_of(setting.data).describe()}


def _train(learner: Learner, until: int, schedule: Schedule, *, total: int, every: int) -> list[Row]:
    """Train to an update; returns where it stood now and then."""
    points = []
    while learner.steps < until:
        learner.step(schedule(learner.steps / total))
        if learner.steps % every == 0 and learner.steps < total:
            points.append(learner.point(examples=EXAMPLES))
    return points


def _learner(setting: Setting, size: str, seed: int) -> Learner:
    return Learner(build(setting, size, seed), task_of(setting, seed), precision=setting.precision)


def _grow(learner: Learner, change: str, *, method: str, carry: bool, seed: int) -> float:
    gap = grow(
        learner.model,
        change,
        method=method,
        example=learner.example(4),
        optimizer=learner.optimizer if carry else None,
        generator=generator_for("growth", seed),
    )
    if not carry:
        learner.renew_optimizer()
    learner.recount()
    return gap


def _run_grown(setting: Setting, options: Mapping[str, Any]) -> Row:
    change, seed, steps = options["change"], options["seed"], num_steps(setting)
    schedule, every = SCHEDULES[options["schedule"]], max(1, steps // POINTS)
    trunk = _learner(setting, CHANGES[change].start, seed)
    before = _train(trunk, round(options["moment"] * steps), schedule, total=steps, every=every)
    runs, flops, seconds = [], trunk.flops, trunk.seconds
    for method, carry in variants(change, options["schedule"], options["moment"]):
        branch = trunk.fork()
        gap = _grow(branch, change, method=method, carry=carry, seed=seed)
        points = before + _train(branch, steps, schedule, total=steps, every=every)
        points.append(branch.point())
        runs.append({"method": method, "carry": carry, "gap": gap, "points": points})
        flops, seconds = flops + branch.flops - trunk.flops, seconds + branch.seconds - trunk.seconds
    return {"runs": runs, "spent_flops": flops, "spent_seconds": seconds}


def _run_scratch(setting: Setting, options: Mapping[str, Any]) -> Row:
    """One run for every budget, its schedule fitted to it; at a constant rate one run passes all of them."""
    schedule, one = SCHEDULES[options["schedule"]], options["schedule"] == "constant"
    wanted, runs, flops, seconds = sorted(options["budgets"]), [], 0.0, 0.0
    learner = _learner(setting, options["size"], options["seed"])
    for budget in wanted:
        if not one:
            learner = _learner(setting, options["size"], options["seed"])
        steps = int(budget // learner.step_flops)
        points = _train(learner, steps, schedule, total=steps, every=max(1, num_steps(setting) // POINTS))
        runs.append({"budget": budget, "points": [*points, learner.point()]})
        if not one or budget == wanted[-1]:
            flops, seconds = flops + learner.flops, seconds + learner.seconds
    return {"runs": runs, "spent_flops": flops, "spent_seconds": seconds}


def _run_convergence(setting: Setting, options: Mapping[str, Any]) -> Row:
    """A half-wide teacher trained twice as long; then students that grow from it, and one from scratch."""
    steps, seed = num_steps(setting), options["seed"]
    every = max(1, steps // POINTS)
    teacher = _learner(setting, "half", seed)
    points = _train(teacher, 2 * steps, constant(), total=2 * steps, every=every)
    end = teacher.point()
    runs, flops, seconds = [], teacher.flops, teacher.seconds
    for method in CONVERGENCE:
        student = _learner(setting, "full", seed) if method == "scratch" else teacher.fork()
        if method != "scratch":
            _grow(student, "widen", method=method, carry=True, seed=seed)
        first, spent, taken = student.steps, student.flops, student.seconds
        path = [student.point(examples=EXAMPLES)]
        path += _train(student, first + steps, constant(), total=first + steps, every=every)
        path.append(student.point())
        runs.append({"method": method, "points": [{**p, "step": p["step"] - first} for p in path]})
        flops, seconds = flops + student.flops - spent, seconds + student.seconds - taken
    return {"teacher": [*points, end], "runs": runs, "spent_flops": flops, "spent_seconds": seconds}


def probe(setting: Setting) -> Learner:
    """The base network."""
    return _learner(setting, "full", 0)


GROWTH = GridExperiment(
    "growth",
    "Does a network that starts half as wide, or one layer shorter, save compute at equal accuracy?",
    cells,
    run_cell,
    probe,
    summarise,
    tables,
    draw,
)
