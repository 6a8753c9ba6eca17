"""Training loops of experiments, on the parts that searches use."""

from collections.abc import Callable
from dataclasses import replace

import torch

from graftwork.evolution import Plan
from graftwork.networks import Member
from graftwork.networks.genome import Genome
from graftwork.session import Problem, SearchConfig, Setup, prepare
from graftwork.typing import Initialisation


def set_up(
    problem: Problem, config: SearchConfig, genome: Genome, *, steps: int, initialisation: Initialisation | None = None
) -> Setup:
    """A population of one network and the means to train it for some steps."""
    if initialisation is not None:
        recipe = config.recipe.replace(initialisation=initialisation)
        config = SearchConfig.from_dict({**config.to_dict(), "recipe": recipe})
    plan = Plan(0, max(1, steps), 0)
    # threads are not timed for each network: those that are compared run alike
    config = replace(config, threads=config.threads or torch.get_num_threads())
    return prepare(config, problem=problem, seed_network=genome, plan=plan)


def train_steps(
    setup: Setup,
    member: Member,
    count: int,
    *,
    total: int,
    watch: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train one member for ``count`` updates of ``total`` (which the schedule spans); returns the losses."""
    setup.trainer.sync()
    losses = []
    for _ in range(count):
        loss = setup.trainer.step(member, setup.state.step, setup.state.step / max(1, total))
        setup.state.step += 1
        losses.append(loss)
        if watch is not None:
            watch(setup.state.step, loss)
    return losses


def validation_accuracy(setup: Setup, members: list[Member]) -> list[float]:
    """Recalibrated, in evaluation mode."""
    return [float(row.mean()) for row in setup.scorer.score(members)]


@torch.no_grad()
def test_accuracy(setup: Setup, members: list[Member]) -> list[float]:
    """The same on the test split: an opening, which the experiment has to tell of."""
    images, labels, _ = setup.problem.test()
    logits = setup.scorer.logits(members, images)
    return [float((row.argmax(1) == labels).float().mean()) for row in logits]
