"""The poster's base network, sampled on the test split as the poster did ("to be unfair to neuroevolution")."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments._common import Experiment, Row, curve_bands, mean_and_spread
from experiments._training import set_up, test_accuracy, train_steps, validation_accuracy
from graftwork.networks.genome import seed_genome, training_flops
from graftwork.session import Problem, SearchConfig

FULL_STEPS = 10_000
SAMPLES = 10


def run_seed(problem: Problem, config: SearchConfig, scale: float, note: Callable[[str], None]) -> Row:
    """Train the six-layer base network by the config's recipe and sample it ten times."""
    every = max(1, round(FULL_STEPS * scale / SAMPLES))
    genome = seed_genome("base", problem.input_shape, len(problem.dataset.class_names))
    setup = set_up(problem, config, genome, steps=SAMPLES * every)
    member = next(iter(setup.population))
    tests, validations = [], []
    for _ in range(SAMPLES):
        train_steps(setup, member, every, total=SAMPLES * every)
        validations += validation_accuracy(setup, [member])
        tests += test_accuracy(setup, [member])
        note(f"  step {setup.state.step}: test {tests[-1]:.4f}, validation {validations[-1]:.4f}")
    return {
        "every": every,
        "test_accuracy": tests,
        "validation_accuracy": validations,
        "best_test_accuracy": max(tests),
        "final_test_accuracy": tests[-1],
        "test_openings": SAMPLES,
        "training_flops": training_flops(genome, setup.trainer.batch_size) * SAMPLES * every,
    }


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Best of the samples (as the poster reports it; biased upwards) and the final one."""
    return {
        "poster": 0.70,
        "best_test_accuracy": mean_and_spread([row["best_test_accuracy"] for row in rows]),
        "final_test_accuracy": mean_and_spread([row["final_test_accuracy"] for row in rows]),
        "final_validation_accuracy": mean_and_spread([row["validation_accuracy"][-1] for row in rows]),
        "note": "best_test_accuracy samples the test split ten times, as the poster did; no other result does",
    }


def draw(rows: Sequence[Row], out: Path) -> None:
    """Accuracy against updates."""
    from graftwork.reports import Curve, curves_figure, write_figure

    steps = [rows[0]["every"] * (i + 1) for i in range(SAMPLES)]
    series = [
        Curve("test, sampled as the poster did", steps, *curve_bands([row["test_accuracy"] for row in rows])),
        Curve("validation", steps, *curve_bands([row["validation_accuracy"] for row in rows])),
    ]
    figure = curves_figure(series, xlabel="updates", ylabel="accuracy", title="The poster's base network")
    write_figure(figure, out / "accuracy")


BASE_NETWORK = Experiment(
    "base-network",
    "Does the paper recipe reproduce the poster's base network (0.70)?",
    run_seed,
    summarise,
    draw,
)
