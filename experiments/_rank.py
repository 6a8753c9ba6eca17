"""Does the score on shared weights rank networks as training each alone does?"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments._common import Experiment, Row, mean_and_spread
from experiments._training import set_up, train_steps, validation_accuracy
from graftwork.evolution import Plan, search
from graftwork.metrics import kendall_tau
from graftwork.networks.genome import Genome, num_parameters
from graftwork.session import Problem, SearchConfig, prepare

FULL_INITIAL, FULL_EACH, NUM_GENERATIONS, NUM_MEMBERS = 5000, 5000, 3, 10


def run_seed(problem: Problem, config: SearchConfig, scale: float, note: Callable[[str], None]) -> Row:
    """Evolve ten members jointly, then train each of their genomes alone for as many updates as the search made."""
    initial, each = max(1, round(FULL_INITIAL * scale)), max(1, round(FULL_EACH * scale))
    recipe = config.recipe.replace(population_size=NUM_MEMBERS, num_survivors=3)
    setup = prepare(replace(config, recipe=recipe), problem=problem, plan=Plan(NUM_GENERATIONS, initial, each))
    last, genomes = None, list[Genome]()
    for generation in search(setup.state, **setup.parts):
        last, genomes = generation, setup.population.genomes
    assert last is not None
    shared = [float(row.mean()) for row in last.evaluation.correct]
    alone = []
    for genome in genomes:
        single = set_up(problem, config, genome, steps=last.step)
        member = next(iter(single.population))
        train_steps(single, member, last.step, total=last.step)
        alone += validation_accuracy(single, [member])
        note(f"  {num_parameters(genome):,} parameters: shared {shared[len(alone) - 1]:.4f}, alone {alone[-1]:.4f}")
    return {"shared": shared, "alone": alone, "kendall_tau": kendall_tau(shared, alone), "steps": last.step}


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Kendall's τ over the members of each seed, and how far alone and shared are apart."""
    return {
        "kendall_tau": mean_and_spread([row["kendall_tau"] for row in rows]),
        "members": len(rows[0]["shared"]),
        "alone_minus_shared": mean_and_spread(
            [a - s for row in rows for a, s in zip(row["alone"], row["shared"], strict=True)]
        ),
    }


def draw(rows: Sequence[Row], out: Path) -> None:
    """One point a member."""
    from graftwork.reports import Curve, curves_figure, write_figure

    series = []
    for number, row in enumerate(rows):
        pairs = sorted(zip(row["shared"], row["alone"], strict=True))
        x, y = [p[0] for p in pairs], [p[1] for p in pairs]
        series.append(Curve(f"seed {number}", x, y))
    figure = curves_figure(series, xlabel="validation accuracy on shared weights", ylabel="trained alone", title="Rank")
    write_figure(figure, out / "rank")


RANK = Experiment(
    "rank",
    "Does the score on shared weights rank members as training each alone for as many updates does?",
    run_seed,
    summarise,
    draw,
)
